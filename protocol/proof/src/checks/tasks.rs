//! The bootloader's output as tasks, and what the statement says about them: *output* (layout), *program*, *binding*,
//! *input*.

use types::felt::Felt;
use types::keys::PublicKey;
use types::statement::Statement;
use types::verdict::Check;

use crate::Rejection;
use crate::policy::{TASKS, binding_program_hash};

/// Words around the user's output: number of tasks, two words before each task's output, the two words of the binding.
pub(crate) const HEADER_WORDS: usize = 7;
/// A task's size counts itself and the program hash.
const TASK_HEADER_WORDS: u64 = 2;

/// One task as the bootloader reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Hash of the program that ran, by whichever function the prover chose.
    pub program_hash: Felt,
    /// What it wrote.
    pub output: Vec<Felt>,
}

/// Reads `[number of tasks]`, then per task `[size, program hash, words ...]`; the number is exact, the sizes use up
/// everything.
pub(crate) fn parse(words: &[Felt]) -> Result<Vec<Task>, Rejection> {
    let refuse = |reason: String| Rejection::because(Check::Output, reason);
    let Some((count, mut rest)) = words.split_first() else { return refuse("the output is empty".into()) };
    if count.to_u64() != Some(TASKS) {
        return refuse(format!("{count} tasks, must be {TASKS}"));
    }
    let mut tasks = Vec::new();
    for index in 0..TASKS {
        let [size, program_hash, ..] = rest else {
            return refuse(format!("task {index}: the output ends in its header"));
        };
        let Some(size) = size.to_u64().filter(|size| *size >= TASK_HEADER_WORDS) else {
            return refuse(format!("task {index}: size {size} does not cover its own header"));
        };
        let Some((task, after)) = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size)) else {
            return refuse(format!("task {index}: size {size} reaches past the output"));
        };
        tasks.push(Task {
            program_hash: *program_hash,
            output: task.iter().skip(TASK_HEADER_WORDS as usize).copied().collect(),
        });
        rest = after;
    }
    if rest.is_empty() { Ok(tasks) } else { refuse(format!("{} words after the last task", rest.len())) }
}

/// The last task, the user's, ran the statement's program.
pub(crate) fn program<'a>(tasks: &'a [Task], statement: &Statement) -> Result<&'a Task, Rejection> {
    let Some(task) = tasks.last() else { return Rejection::because(Check::Program, "no task") };
    if task.program_hash == statement.program_hash {
        return Ok(task);
    }
    let (found, wanted) = (task.program_hash, statement.program_hash);
    Rejection::because(Check::Program, format!("the proof is of program {found}, the statement of {wanted}"))
}

/// The first task ran the pinned binding program and wrote the binding digest of statement and prover.
pub(crate) fn binding(tasks: &[Task], statement: &Statement, prover: &PublicKey) -> Result<(), Rejection> {
    let refuse = |reason: String| Rejection::because(Check::Binding, reason);
    let Some(task) = tasks.first() else { return refuse("no task".into()) };
    let pinned = binding_program_hash(statement.hash_function);
    if task.program_hash != pinned {
        return refuse(format!("the first task is program {}, not the binding program {pinned}", task.program_hash));
    }
    if task.output != statement.binding_words(prover) {
        return refuse("the first task's output is not the binding digest of this statement and prover".into());
    }
    Ok(())
}

/// The user's output is what the statement fixes of it. What only re-execution can tell is not decided here.
pub(crate) fn input(task: &Task, statement: &Statement) -> Result<(), Rejection> {
    let Some(at) = statement.output_rule.broken_at(&task.output) else { return Ok(()) };
    let found = task.output.len();
    Rejection::because(
        Check::Input,
        format!("the output of {found} words differs at word {at} from what the statement fixes"),
    )
}
