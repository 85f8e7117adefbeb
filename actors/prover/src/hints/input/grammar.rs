//! The grammar of input hints. Nothing is evaluated; what does not match to the last character is not an input hint.

/// Longest key or variable name, in characters.
const NAME_MAX: usize = 64;
/// Largest constant, index or divisor, exclusive.
const NUMBER_END: u64 = 1 << 63;

/// One line of an input hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `TARGET = VALUE`
    Assign(Target, Expression),
    /// `segments.write_arg(ids.NAME, program_input['KEY'])`, and the two-line loop that means the same.
    WriteList { pointer: String, key: String },
}

/// The cell that a statement writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Variable(String),
    Ap(u64),
    Fp(u64),
    At { pointer: String, offset: Index },
}

/// A constant or a variable, as offset or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Index {
    Constant(u64),
    Variable(String),
}

/// What a statement writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    Item { key: String, index: Option<Index> },
    Length { key: String },
    List { key: String },
    NewSegment,
    Remainder { variable: String, divisor: u64 },
    Quotient { variable: String, divisor: u64 },
    Constant(u64),
}

/// A parsed hint block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputHint(pub(super) Vec<Statement>);

impl InputHint {
    /// Parses a hint's text; `None` when it is not an input hint.
    pub(crate) fn parse(code: &str) -> Option<Self> {
        let lines: Vec<&str> =
            code.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        if let [head, body] = lines.as_slice()
            && let Some(statement) = parse_loop(head, body)
        {
            return Some(Self(vec![statement]));
        }
        let statements: Option<Vec<Statement>> = lines.iter().map(|line| parse_statement(line)).collect();
        statements.filter(|list| !list.is_empty()).map(Self)
    }
}

/// A cursor over one line.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn eat(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start_matches(' ').strip_prefix(token)?;
        Some(())
    }

    fn accepts(&mut self, token: &str) -> bool {
        self.eat(token).is_some()
    }

    fn word(&mut self, allowed: fn(char) -> bool) -> Option<&'a str> {
        let text = self.0.trim_start_matches(' ');
        let end = text.find(|c: char| !allowed(c)).unwrap_or(text.len());
        let (word, rest) = text.split_at_checked(end)?;
        if word.is_empty() || word.len() > NAME_MAX {
            return None;
        }
        self.0 = rest;
        Some(word)
    }

    fn variable(&mut self) -> Option<String> {
        self.eat("ids.")?;
        let word = self.word(|c| c.is_ascii_alphanumeric() || c == '_')?;
        // A member access needs the type's layout, which the grammar leaves out.
        (!word.starts_with(|c: char| c.is_ascii_digit()) && !self.0.starts_with('.')).then(|| word.to_owned())
    }

    fn number(&mut self) -> Option<u64> {
        let number = self.word(|c| c.is_ascii_digit())?.parse::<u64>().ok()?;
        (number < NUMBER_END).then_some(number)
    }

    fn index(&mut self) -> Option<Index> {
        if self.0.trim_start_matches(' ').starts_with("ids.") {
            self.variable().map(Index::Variable)
        } else {
            self.number().map(Index::Constant)
        }
    }

    /// `program_input['KEY']`
    fn input(&mut self) -> Option<String> {
        self.eat("program_input[")?;
        let quote = if self.accepts("'") {
            "'"
        } else {
            self.eat("\"")?;
            "\""
        };
        let key = self.word(|c| c.is_ascii_alphanumeric() || c == '_')?;
        self.0 = self.0.strip_prefix(quote)?;
        self.eat("]")?;
        Some(key.to_owned())
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn parse_loop(head: &str, body: &str) -> Option<Statement> {
    let mut cursor = Cursor(head);
    cursor.eat("for i, v in enumerate(")?;
    let key = cursor.input()?;
    cursor.eat("):")?;
    cursor.end()?;
    let mut cursor = Cursor(body.strip_prefix("    ")?);
    cursor.eat("memory[")?;
    let pointer = cursor.variable()?;
    for token in ["+", "i", "]", "=", "v"] {
        cursor.eat(token)?;
    }
    cursor.end()?;
    Some(Statement::WriteList { pointer, key })
}

fn parse_statement(line: &str) -> Option<Statement> {
    if line.starts_with(' ') {
        return None;
    }
    let mut cursor = Cursor(line);
    if cursor.accepts("segments.write_arg(") {
        let pointer = cursor.variable()?;
        cursor.eat(",")?;
        let key = cursor.input()?;
        cursor.eat(")")?;
        cursor.end()?;
        return Some(Statement::WriteList { pointer, key });
    }
    let target = parse_target(&mut cursor)?;
    cursor.eat("=")?;
    let wrapped = cursor.accepts("to_felt_or_relocatable(");
    let value = parse_expression(&mut cursor, wrapped)?;
    if wrapped {
        cursor.eat(")")?;
    }
    cursor.end()?;
    Some(Statement::Assign(target, value))
}

fn parse_target(cursor: &mut Cursor<'_>) -> Option<Target> {
    if !cursor.accepts("memory[") {
        return cursor.variable().map(Target::Variable);
    }
    let target = if cursor.accepts("ap") {
        Target::Ap(parse_constant_offset(cursor)?)
    } else if cursor.accepts("fp") {
        Target::Fp(parse_constant_offset(cursor)?)
    } else {
        let pointer = cursor.variable()?;
        let offset = if cursor.accepts("+") { cursor.index()? } else { Index::Constant(0) };
        Target::At { pointer, offset }
    };
    cursor.eat("]")?;
    Some(target)
}

fn parse_constant_offset(cursor: &mut Cursor<'_>) -> Option<u64> {
    if cursor.accepts("+") { cursor.number() } else { Some(0) }
}

fn parse_expression(cursor: &mut Cursor<'_>, wrapped: bool) -> Option<Expression> {
    if cursor.accepts("len(") {
        let key = cursor.input()?;
        cursor.eat(")")?;
        return Some(Expression::Length { key });
    }
    if cursor.0.trim_start_matches(' ').starts_with("ids.") {
        let variable = cursor.variable()?;
        let quotient = cursor.accepts("//");
        if !quotient {
            cursor.eat("%")?;
        }
        let divisor = cursor.number().filter(|number| *number > 0)?;
        return Some(if quotient {
            Expression::Quotient { variable, divisor }
        } else {
            Expression::Remainder { variable, divisor }
        });
    }
    if wrapped {
        return parse_source(cursor);
    }
    if cursor.accepts("segments.gen_arg(") {
        let key = cursor.input()?;
        cursor.eat(")")?;
        return Some(Expression::List { key });
    }
    if cursor.accepts("segments.add()") {
        return Some(Expression::NewSegment);
    }
    if cursor.accepts("int(") {
        let source = parse_source(cursor)?;
        if cursor.accepts(",") {
            cursor.eat("16")?;
        }
        cursor.eat(")")?;
        return Some(source);
    }
    if cursor.0.trim_start_matches(' ').starts_with(|c: char| c.is_ascii_digit()) {
        return cursor.number().map(Expression::Constant);
    }
    parse_source(cursor)
}

fn parse_source(cursor: &mut Cursor<'_>) -> Option<Expression> {
    let key = cursor.input()?;
    let index = if cursor.accepts("[") {
        let index = cursor.index()?;
        cursor.eat("]")?;
        Some(index)
    } else {
        None
    };
    Some(Expression::Item { key, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(code: &str) -> Statement {
        let InputHint(mut list) = InputHint::parse(code).unwrap_or_else(|| panic!("refused: {code}"));
        assert_eq!(list.len(), 1);
        list.remove(0)
    }

    #[test]
    fn the_documented_forms_parse() {
        let item = |key: &str, index| Expression::Item { key: key.into(), index };
        assert_eq!(one("ids.n = program_input['n']"), Statement::Assign(Target::Variable("n".into()), item("n", None)));
        assert_eq!(
            one("memory[ap] = to_felt_or_relocatable(program_input[\"n\"])"),
            Statement::Assign(Target::Ap(0), item("n", None))
        );
        assert_eq!(
            one("memory[fp + 2] = int(program_input['a'][ids.i], 16)"),
            Statement::Assign(Target::Fp(2), item("a", Some(Index::Variable("i".into()))))
        );
        assert_eq!(
            one("memory[ids.p + ids.i] = program_input['a'][3]"),
            Statement::Assign(
                Target::At { pointer: "p".into(), offset: Index::Variable("i".into()) },
                item("a", Some(Index::Constant(3)))
            )
        );
        assert_eq!(
            one("for i, v in enumerate(program_input['a']):\n    memory[ids.p + i] = v"),
            Statement::WriteList { pointer: "p".into(), key: "a".into() }
        );
        assert_eq!(
            one("segments.write_arg(ids.p, program_input['a'])"),
            Statement::WriteList { pointer: "p".into(), key: "a".into() }
        );
        assert_eq!(
            one("memory[ap] = to_felt_or_relocatable(ids.index % 2)"),
            Statement::Assign(Target::Ap(0), Expression::Remainder { variable: "index".into(), divisor: 2 })
        );
        let block = "# read\nids.n = len(program_input['v'])\nids.v = segments.gen_arg(program_input['v'])\n";
        assert_eq!(InputHint::parse(block).unwrap().0.len(), 2);
    }

    #[test]
    fn everything_else_is_refused() {
        for code in [
            "",
            "# only a comment",
            "print(program_input)",
            "ids.n = program_input",
            "ids.n = program_input['n'].x",
            "ids.n = program_input['n'] + 1",
            "ids.n = program_input['../n']",
            "ids.n = program_input['n\"]",
            "ids.a.b = program_input['n']",
            "ids.n = ids.m",
            "ids.n = ids.m % 0",
            "ids.n = ids.m // ids.k",
            "ids.n = program_input[0]",
            "ids.n = 9223372036854775808",
            "ids.n = open('x')",
            "ids.n = program_input['n']; import os",
            "import os\nids.n = program_input['n']",
            "for i, v in enumerate(program_input['a']):\n    memory[ids.p + i] = v\nids.n = 1",
            "for i, v in enumerate(program_input['a']):\nmemory[ids.p + i] = v",
            "    ids.n = program_input['n']",
            "memory[ap] = to_felt_or_relocatable(segments.gen_arg(program_input['a']))",
            "memory[ap] = to_felt_or_relocatable(program_input['a']",
        ] {
            assert_eq!(InputHint::parse(code), None, "{code}");
        }
    }
}
