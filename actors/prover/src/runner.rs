//! Runs the binding task and a program through the bootloader, hints watched and steps counted.
//!
//! Owns the meaning of "steps" and the way a failure is told apart. Steps are those of the program, from its call to its
//! return, and those that the bootloader spends afterwards on simulating builtins which have no table of their own
//! (ECDSA, Keccak, EC operation), because the program causes them. Hashing the program and the bootloader's own book-keeping
//! are not counted.
//! Tasks are built in memory; the library's own reading of files is never reached.

mod processor;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use cairo_lang_runner::Arg;
use cairo_program_runner_lib::ProgramInput;
use cairo_program_runner_lib::hints::types::{Cairo1Executable, HashFunc};
use cairo_program_runner_lib::hints::{
    Cairo0Executable, PROGRAM_INPUT, PROGRAM_OBJECT, SimpleBootloaderInput, Task, TaskSpec,
};
use cairo_vm::types::builtin_name::BuiltinName;
use cairo_vm::types::layout_name::LayoutName;
use cairo_vm::types::relocatable::{MaybeRelocatable, Relocatable};
use cairo_vm::vm::errors::vm_errors::VirtualMachineError;
use cairo_vm::vm::runners::cairo_runner::CairoRunner;
use thiserror::Error;
use types::felt::Felt;
use types::job::{HashFunction, OutputRule};
use types::verdict::FailureReason;

use self::processor::Processor;
use crate::args::Arguments;
use crate::assets::{Assets, assets};
use crate::error::shorten;
use crate::program::{Loaded, Program};
use crate::{felt, hash};

/// `program_input` of a Cairo 0 program.
type Input = serde_json::Map<String, serde_json::Value>;

/// How a run ended without an output.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RunError {
    /// The program fails on this input, on every node alike.
    #[error("the program failed after {steps} steps ({reason:?}): {detail}")]
    Failed {
        /// Which kind of failure.
        reason: FailureReason,
        /// Words for people; not compared between nodes.
        detail: String,
        /// Steps taken until then.
        steps: u64,
    },
    /// The run needs more memory than this process may have, or the machine broke off: says nothing about the program.
    #[error("the run needs more than this node gives it after {steps} steps: {detail}")]
    Resources {
        /// What was missing.
        detail: String,
        /// Steps taken until then.
        steps: u64,
    },
    /// This build can't run it: a fault here, not the program's.
    #[error("the run broke off: {detail}")]
    Internal {
        /// What went wrong.
        detail: String,
    },
}

/// What a run shall do.
pub(crate) struct RunRequest {
    /// The program, used up by the run.
    pub(crate) program: Program,
    /// Its arguments.
    pub(crate) args: Arguments,
    /// Function of the program hash.
    pub(crate) hash_function: HashFunction,
    /// The two words of the binding digest.
    pub(crate) binding: [Felt; 2],
    /// Steps after which the program has failed.
    pub(crate) max_steps: u64,
    /// What the output must be; otherwise the program has failed.
    pub(crate) output_rule: OutputRule,
    /// Whether the trace is kept, for a proof.
    pub(crate) trace: bool,
}

/// A run that ended well.
pub(crate) struct Run {
    /// The machine, ready to be adapted when the trace was kept.
    pub(crate) runner: CairoRunner,
    /// The program's hash, as the bootloader output it.
    pub(crate) program_hash: Felt,
    /// The program's output.
    pub(crate) output: Vec<Felt>,
    /// Steps of the program.
    pub(crate) steps: u64,
    /// Steps of the whole run.
    pub(crate) total_steps: u64,
}

/// Runs a request to its end.
///
/// # Errors
/// [`RunError`]; a panic inside the libraries counts as [`RunError::Resources`], so that no node decides on it.
pub(crate) fn run(request: RunRequest) -> Result<Run, RunError> {
    let assets = assets().map_err(|e| RunError::Internal { detail: e.to_string() })?;
    match catch_unwind(AssertUnwindSafe(|| run_inner(request, assets))) {
        Ok(result) => result,
        Err(panic) => Err(RunError::Resources {
            detail: format!("the virtual machine panicked: {}", panic_text(&panic)),
            steps: 0,
        }),
    }
}

/// The text of a caught panic, shortened.
pub(crate) fn panic_text(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    shorten(text.unwrap_or("no text"))
}

fn run_inner(request: RunRequest, assets: &'static Assets) -> Result<Run, RunError> {
    let RunRequest { program, args, hash_function, binding, max_steps, output_rule, trace } = request;
    let internal = |detail: String| RunError::Internal { detail: shorten(&detail) };
    let (task, input) = user_task(program, args);
    let hash_function = hash::to_library(hash_function);
    let tasks = SimpleBootloaderInput {
        fact_topologies_path: None,
        single_page: true,
        tasks: vec![task_spec(binding_task(assets), hash_function), task_spec(task, hash_function)],
    };
    let mut processor = Processor::new(assets, input, binding, max_steps);
    let mut runner = CairoRunner::new(&assets.bootloader, LayoutName::stwo_no_ecop, None, true, trace, true)
        .map_err(|e| internal(e.to_string()))?;
    runner.exec_scopes.insert_value(PROGRAM_INPUT, ProgramInput::from_value(tasks));
    runner.exec_scopes.insert_value(PROGRAM_OBJECT, assets.bootloader.clone());
    let end = runner.initialize(true).map_err(|e| internal(e.to_string()))?;
    if let Err(error) = finish(&mut runner, end, &mut processor) {
        return Err(processor.classify(&error, runner.vm.get_pc()));
    }
    let cells = output_cells(&mut runner).map_err(internal)?;
    let (program_hash, output) = processor.user_output(&cells)?;
    let steps = processor.counted();
    if let Some(at) = output_rule.broken_at(&output) {
        let detail = format!("its output of {} words differs at word {at} from what the job fixes", output.len());
        return Err(RunError::Failed { reason: FailureReason::Output, detail, steps });
    }
    Ok(Run { runner, program_hash, output, steps, total_steps: processor.steps })
}

/// The calls of the library's own run in proof mode, one by one, so that the machine is at hand when one fails.
fn finish(runner: &mut CairoRunner, end: Relocatable, processor: &mut Processor) -> Result<(), VirtualMachineError> {
    runner.run_until_pc(end, processor)?;
    // The prover wants the final state to be a step of its own.
    processor.run_on();
    runner.run_for_steps(1, processor)?;
    runner.end_run(true, false, processor, true)?;
    runner.read_return_values(true)?;
    runner.finalize_segments()?;
    runner.relocate(false, false).map_err(VirtualMachineError::from)
}

fn task_spec(task: Task, hash_function: HashFunc) -> TaskSpec {
    TaskSpec { task: Rc::new(task), program_hash_function: hash_function }
}

/// The binding words reach it through our own hint, so it has no input text that the library could take for a path.
fn binding_task(assets: &Assets) -> Task {
    Task::Cairo0Program(Cairo0Executable { program: assets.simple_output.clone(), program_input: None })
}

fn user_task(program: Program, args: Arguments) -> (Task, Option<Input>) {
    match program.into_loaded() {
        Loaded::Cairo0(program) => {
            let input = match args {
                Arguments::Input(map) => Some(map),
                Arguments::None | Arguments::User(_) => None,
            };
            (Task::Cairo0Program(Cairo0Executable { program, program_input: None }), input)
        }
        Loaded::Cairo1 { program, hints } => {
            let user_args = match args {
                Arguments::User(list) => list.into_iter().map(Arg::Value).collect(),
                Arguments::None | Arguments::Input(_) => Vec::new(),
            };
            (Task::Cairo1Program(Cairo1Executable { program, user_args, string_to_hint: hints }), None)
        }
        Loaded::Pie(pie) => (Task::Pie(*pie), None),
    }
}

/// The cells of the output segment; `None` where one is no number.
fn output_cells(runner: &mut CairoRunner) -> Result<Vec<Option<Felt>>, String> {
    let base = runner.vm.get_output_builtin_mut().map_err(|e| e.to_string())?.base();
    let sizes = runner.vm.segments.compute_effective_sizes();
    let size = *sizes.get(base).ok_or_else(|| format!("no {} segment", BuiltinName::output.to_str()))?;
    let segment = isize::try_from(base).map_err(|e| e.to_string())?;
    Ok((0..size)
        .map(|offset| match runner.vm.get_maybe(&Relocatable::from((segment, offset))) {
            Some(MaybeRelocatable::Int(word)) => Some(felt::from_vm(&word)),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests;
