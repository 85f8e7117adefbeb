//! The hints by which a Cairo 0 program reads `program_input`: a small fixed language, parsed, never evaluated.
//!
//! Owns the grammar documented in `HINTS.md` and its meaning on the virtual machine. Relies on the virtual machine's
//! own look-up of `ids.NAME`. Whatever does not match the grammar to the last character is not an input hint.

use std::collections::HashMap;

use cairo_vm::Felt252;
use cairo_vm::hint_processor::builtin_hint_processor::hint_utils::{
    get_integer_from_var_name, get_ptr_from_var_name, get_relocatable_from_var_name,
};
use cairo_vm::hint_processor::hint_processor_definition::HintReference;
use cairo_vm::serde::deserialize_program::ApTracking;
use cairo_vm::types::relocatable::{MaybeRelocatable, Relocatable};
use cairo_vm::vm::errors::hint_errors::HintError;
use cairo_vm::vm::vm_core::VirtualMachine;
use serde_json::{Map, Value};

use crate::felt;
use crate::limits;

/// Longest key or variable name, in characters.
const NAME_MAX: usize = 64;
/// Largest constant, index or divisor, exclusive.
const NUMBER_END: u64 = 1 << 63;

/// One line of an input hint.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Statement {
    /// `TARGET = VALUE`
    Assign(Target, Expression),
    /// `segments.write_arg(ids.NAME, program_input['KEY'])`, and the two-line loop that means the same.
    WriteList { pointer: String, key: String },
}

/// The cell that a statement writes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Variable(String),
    Ap(u64),
    Fp(u64),
    At { pointer: String, offset: Index },
}

/// A constant or a variable, as offset or index.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Index {
    Constant(u64),
    Variable(String),
}

/// What a statement writes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
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
pub(crate) struct InputHint(Vec<Statement>);

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

    /// Writes what the hint says.
    ///
    /// # Errors
    /// A hint error whose text names the key and what is wrong with it; errors of the virtual machine's memory.
    pub(crate) fn execute(&self, context: &mut InputContext<'_>) -> Result<(), HintError> {
        self.0.iter().try_for_each(|statement| context.execute(statement))
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

/// What a running hint can see.
pub(crate) struct InputContext<'a> {
    /// The machine.
    pub(crate) vm: &'a mut VirtualMachine,
    /// Where the hint's variables live.
    pub(crate) ids: &'a HashMap<String, HintReference>,
    /// How far `ap` moved since the references were made.
    pub(crate) ap_tracking: &'a ApTracking,
    /// The user's object, if the job has one.
    pub(crate) input: Option<&'a Map<String, Value>>,
    /// Numbers that lists may still write in this run.
    pub(crate) numbers_left: &'a mut usize,
}

fn fail(text: String) -> HintError {
    HintError::CustomHint(text.into_boxed_str())
}

impl InputContext<'_> {
    fn execute(&mut self, statement: &Statement) -> Result<(), HintError> {
        match statement {
            Statement::Assign(target, expression) => {
                let value = self.evaluate(expression)?;
                let address = self.address(target)?;
                self.vm.insert_value(address, value).map_err(HintError::Memory)
            }
            Statement::WriteList { pointer, key } => {
                let start = get_ptr_from_var_name(pointer, self.vm, self.ids, self.ap_tracking)?;
                let list = self.list(key)?.clone();
                self.write_list(start, &list, key, 0)
            }
        }
    }

    fn address(&self, target: &Target) -> Result<Relocatable, HintError> {
        let moved = |base: Relocatable, offset: u64| {
            let offset = usize::try_from(offset).map_err(|_| fail(format!("offset {offset} is too large")))?;
            (base + offset).map_err(HintError::Math)
        };
        match target {
            Target::Variable(name) => get_relocatable_from_var_name(name, self.vm, self.ids, self.ap_tracking),
            Target::Ap(offset) => moved(self.vm.get_ap(), *offset),
            Target::Fp(offset) => moved(self.vm.get_fp(), *offset),
            Target::At { pointer, offset } => {
                let base = get_ptr_from_var_name(pointer, self.vm, self.ids, self.ap_tracking)?;
                moved(base, self.index(offset)?)
            }
        }
    }

    fn index(&self, index: &Index) -> Result<u64, HintError> {
        match index {
            Index::Constant(number) => Ok(*number),
            Index::Variable(name) => {
                let value = get_integer_from_var_name(name, self.vm, self.ids, self.ap_tracking)?;
                u64::try_from(value).map_err(|_| fail(format!("ids.{name} = {value} is no index: limit 2^64")))
            }
        }
    }

    fn evaluate(&mut self, expression: &Expression) -> Result<MaybeRelocatable, HintError> {
        Ok(match expression {
            Expression::Item { key, index } => {
                let value = match index {
                    None => self.value(key)?,
                    Some(index) => {
                        let at = self.index(index)?;
                        let list = self.list(key)?;
                        usize::try_from(at).ok().and_then(|at| list.get(at)).ok_or_else(|| {
                            fail(format!("program_input['{key}'] has {} items, item {at} was read", list.len()))
                        })?
                    }
                };
                number(value, key)?.into()
            }
            Expression::Length { key } => Felt252::from(self.list(key)?.len()).into(),
            Expression::List { key } => {
                let list = self.list(key)?.clone();
                self.new_list(&list, key, 0)?.into()
            }
            Expression::NewSegment => self.vm.add_memory_segment().into(),
            Expression::Remainder { variable, divisor } => self.divide(variable, *divisor)?.1.into(),
            Expression::Quotient { variable, divisor } => self.divide(variable, *divisor)?.0.into(),
            Expression::Constant(number) => Felt252::from(*number).into(),
        })
    }

    fn divide(&self, variable: &str, divisor: u64) -> Result<(Felt252, Felt252), HintError> {
        let value = get_integer_from_var_name(variable, self.vm, self.ids, self.ap_tracking)?;
        let divisor = Felt252::from(divisor)
            .try_into()
            .map_err(|_| fail(format!("division of ids.{variable} by zero")))?;
        Ok(value.div_rem(&divisor))
    }

    fn value(&self, key: &str) -> Result<&Value, HintError> {
        let input = self
            .input
            .ok_or_else(|| fail(format!("program_input['{key}'] was read, but the job has no program input")))?;
        input.get(key).ok_or_else(|| fail(format!("program_input['{key}'] was read, but the key is missing")))
    }

    fn list(&self, key: &str) -> Result<&Vec<Value>, HintError> {
        match self.value(key)? {
            Value::Array(list) => Ok(list),
            _ => Err(fail(format!("program_input['{key}'] is no list"))),
        }
    }

    fn new_list(&mut self, list: &[Value], key: &str, depth: usize) -> Result<Relocatable, HintError> {
        let start = self.vm.add_memory_segment();
        self.write_list(start, list, key, depth)?;
        Ok(start)
    }

    fn write_list(&mut self, start: Relocatable, list: &[Value], key: &str, depth: usize) -> Result<(), HintError> {
        if depth >= limits::INPUT_LIST_DEPTH_MAX {
            let limit = limits::INPUT_LIST_DEPTH_MAX;
            return Err(fail(format!("program_input['{key}'] has lists more than {limit} deep")));
        }
        *self.numbers_left = self.numbers_left.checked_sub(list.len()).ok_or_else(|| {
            fail(format!("program_input['{key}']: more than {} numbers were written from lists", limits::INPUT_NUMBERS_MAX))
        })?;
        for (i, item) in list.iter().enumerate() {
            let cell: MaybeRelocatable = match item {
                Value::Array(inner) => self.new_list(inner, key, depth.saturating_add(1))?.into(),
                other => number(other, key)?.into(),
            };
            let address = (start + i).map_err(HintError::Math)?;
            self.vm.insert_value(address, cell).map_err(HintError::Memory)?;
        }
        Ok(())
    }
}

fn number(value: &Value, key: &str) -> Result<Felt252, HintError> {
    felt::from_json(value).ok_or_else(|| {
        let shown: String = value.to_string().chars().take(80).collect();
        fail(format!("program_input['{key}'] holds {shown}, which is no integer of the Stark field"))
    })
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
        assert_eq!(
            one("ids.n = program_input['n']"),
            Statement::Assign(Target::Variable("n".into()), item("n", None))
        );
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
