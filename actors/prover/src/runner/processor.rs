//! Our wrapper around the library's hint processor: looks at every hint, counts every step, names every failure.

use std::any::Any;
use std::collections::HashMap;
use std::rc::Rc;

use cairo_lang_casm::hints::{ExternalHint, Hint};
use cairo_program_runner_lib::hints::{BootloaderHintProcessor, vars};
use cairo_vm::hint_processor::builtin_hint_processor::builtin_hint_processor_definition::HintProcessorData;
use cairo_vm::hint_processor::hint_processor_definition::{HintExtension, HintProcessorLogic};
use cairo_vm::types::exec_scope::ExecutionScopes;
use cairo_vm::types::relocatable::{MaybeRelocatable, Relocatable};
use cairo_vm::vm::errors::hint_errors::HintError;
use cairo_vm::vm::errors::memory_errors::MemoryError;
use cairo_vm::vm::errors::vm_errors::VirtualMachineError;
use cairo_vm::vm::runners::cairo_runner::ResourceTracker;
use cairo_vm::vm::vm_core::VirtualMachine;
use types::felt::Felt;
use types::verdict::FailureReason;

use crate::assets::Assets;
use crate::error::shorten;
use crate::hints::input::{InputContext, InputHint};
use crate::hints::is_common;
use crate::runner::{Input, RunError};
use crate::{felt, limits};

/// Hint by which `simple_output` reads what it shall output.
const BINDING_INPUT_HINT: &str = "output = program_input[\"output\"]";
/// First line of the bootloader's hint at the place where a task returns to.
const TASK_EXIT_HINT: &str = "vm_exit_scope()\n# Note that bootloader_input will only be available in the next hint.";
/// Tasks of a run: the binding task and the program.
const TASKS: u64 = 2;
/// Steps from the program's return to the end when there is nothing to simulate; a test compares it with real runs.
const BOOKKEEPING_STEPS: u64 = 1_100;

/// Where the run is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Bootloader,
    BindingTask,
    UserTask,
}

/// What a hint text of the user's program is.
enum Known {
    Input(Rc<InputHint>),
    Common,
}

/// Our wrapper around the library's hint processor.
pub(super) struct Processor {
    inner: BootloaderHintProcessor<'static>,
    known: HashMap<String, Known>,
    input: Option<Input>,
    binding: [Felt; 2],
    numbers_left: usize,
    call_task: usize,
    phase: Phase,
    tasks_entered: u64,
    max_steps: u64,
    pub(super) steps: u64,
    stop_at: u64,
    entered_at: Option<u64>,
    returned_at: Option<u64>,
    program_address: Option<Relocatable>,
}

impl Processor {
    pub(super) fn new(assets: &Assets, input: Option<Input>, binding: [Felt; 2], max_steps: u64) -> Self {
        Self {
            inner: BootloaderHintProcessor::new(None),
            known: HashMap::new(),
            input,
            binding,
            numbers_left: limits::INPUT_NUMBERS_MAX,
            call_task: assets.call_task,
            phase: Phase::Bootloader,
            tasks_entered: 0,
            max_steps,
            steps: 0,
            stop_at: limits::BOOTLOADER_STEPS_MAX,
            entered_at: None,
            returned_at: None,
            program_address: None,
        }
    }

    fn bootloader_hint(
        &mut self,
        vm: &mut VirtualMachine,
        scopes: &mut ExecutionScopes,
        data: &Box<dyn Any>,
    ) -> Result<HintExtension, HintError> {
        if self.phase != Phase::Bootloader {
            let returns = data.downcast_ref::<HintProcessorData>().is_some_and(|hint| hint.code == TASK_EXIT_HINT);
            if !returns {
                return Err(HintError::CustomHint("the program jumped into the bootloader".into()));
            }
            if self.phase == Phase::UserTask {
                self.leave_program();
            }
            self.phase = Phase::Bootloader;
        }
        let calls = vm.get_pc().offset == self.call_task;
        let extension = self.inner.execute_hint_extensive(vm, scopes, data)?;
        if calls {
            self.enter_task(scopes);
        }
        Ok(extension)
    }

    /// Lifts every limit: the program is over, one step of the bootloader remains.
    pub(super) fn run_on(&mut self) {
        self.stop_at = u64::MAX;
    }

    fn leave_program(&mut self) {
        self.returned_at = Some(self.steps);
        self.stop_at = self.stop_at.saturating_add(BOOKKEEPING_STEPS);
    }

    /// The program's steps so far.
    pub(super) fn counted(&self) -> u64 {
        let Some(entered_at) = self.entered_at else {
            return 0;
        };
        let returned_at = self.returned_at.unwrap_or(self.steps);
        let simulation = self.steps.saturating_sub(returned_at).saturating_sub(BOOKKEEPING_STEPS);
        returned_at.saturating_sub(entered_at).saturating_add(simulation)
    }

    fn enter_task(&mut self, scopes: &ExecutionScopes) {
        self.tasks_entered = self.tasks_entered.saturating_add(1);
        self.phase = if self.tasks_entered == 1 { Phase::BindingTask } else { Phase::UserTask };
        if self.tasks_entered == TASKS {
            // The call itself is the bootloader's step.
            let entered_at = self.steps.saturating_add(1);
            self.entered_at = Some(entered_at);
            self.stop_at = entered_at.saturating_add(self.max_steps.min(limits::STEPS_MAX));
        }
        // The scope of the bootloader is below the one that the call has just opened.
        self.program_address = scopes.data.iter().rev().find_map(|scope| {
            scope.get(vars::PROGRAM_ADDRESS).and_then(|value| value.downcast_ref::<Relocatable>()).copied()
        });
    }

    fn binding_hint(
        &mut self,
        vm: &mut VirtualMachine,
        scopes: &mut ExecutionScopes,
        data: &Box<dyn Any>,
    ) -> Result<HintExtension, HintError> {
        let hint = data.downcast_ref::<HintProcessorData>().ok_or(HintError::WrongHintData)?;
        if hint.code == BINDING_INPUT_HINT {
            let words: Vec<MaybeRelocatable> =
                self.binding.iter().map(|word| MaybeRelocatable::from(felt::to_vm(*word))).collect();
            scopes.insert_value(vars::SIMPLE_OUTPUT_INPUT, words);
            return Ok(HintExtension::default());
        }
        self.inner.execute_hint_extensive(vm, scopes, data)
    }

    /// A second look at every hint, in case one got past the check of the whole program.
    fn user_hint(
        &mut self,
        vm: &mut VirtualMachine,
        scopes: &mut ExecutionScopes,
        data: &Box<dyn Any>,
    ) -> Result<HintExtension, HintError> {
        if let Some(hint) = data.downcast_ref::<Hint>() {
            return match hint {
                // They only collect data for a debugger; following them costs time that no step pays for.
                Hint::External(ExternalHint::AddMarker { .. } | ExternalHint::AddTrace { .. }) => {
                    Ok(HintExtension::default())
                }
                _ => self.inner.execute_hint_extensive(vm, scopes, data),
            };
        }
        let hint = data.downcast_ref::<HintProcessorData>().ok_or(HintError::WrongHintData)?;
        if !self.known.contains_key(&hint.code) {
            let known = match InputHint::parse(&hint.code) {
                Some(parsed) => Known::Input(Rc::new(parsed)),
                None if is_common(&hint.code) => Known::Common,
                None => return Err(HintError::UnknownHint(hint.code.clone().into_boxed_str())),
            };
            self.known.insert(hint.code.clone(), known);
        }
        match self.known.get(&hint.code) {
            Some(Known::Input(parsed)) => {
                let parsed = Rc::clone(parsed);
                let mut context = InputContext {
                    vm,
                    ids: &hint.ids_data,
                    ap_tracking: &hint.ap_tracking,
                    input: self.input.as_ref(),
                    numbers_left: &mut self.numbers_left,
                };
                parsed.execute(&mut context).map(|()| HintExtension::default())
            }
            _ => self.inner.execute_hint_extensive(vm, scopes, data),
        }
    }

    /// Turns an error of the machine into one of ours.
    pub(super) fn classify(&self, error: &VirtualMachineError, pc: Relocatable) -> RunError {
        if self.entered_at.is_none() {
            let detail = if self.consumed() {
                format!("hashing the program takes more than {} steps", limits::BOOTLOADER_STEPS_MAX)
            } else {
                shorten(&format!("before the program was entered: {error}"))
            };
            return RunError::Internal { detail };
        }
        let steps = self.counted();
        if is_capacity(error) {
            return RunError::Resources { detail: "a memory segment does not fit the memory limit".into(), steps };
        }
        let reason = match error {
            VirtualMachineError::UnfinishedExecution if self.consumed() && self.max_steps > limits::STEPS_MAX => {
                let detail = format!("more than {} steps, which is as many as this build takes", limits::STEPS_MAX);
                return RunError::Resources { detail, steps };
            }
            VirtualMachineError::UnfinishedExecution if self.consumed() => {
                let detail = format!("the limit is {} steps", self.max_steps);
                let steps = steps.min(self.max_steps);
                return RunError::Failed { reason: FailureReason::StepLimit, detail, steps };
            }
            VirtualMachineError::Hint(_) => FailureReason::Hint,
            _ => FailureReason::Execution,
        };
        let place = match self.program_address {
            Some(start) if start.segment_index == pc.segment_index => {
                format!("at program word {}", pc.offset.saturating_sub(start.offset))
            }
            _ => format!("at {pc}, outside of the program"),
        };
        let text = match error {
            VirtualMachineError::Hint(inner) => inner.1.to_string(),
            other => other.to_string(),
        };
        RunError::Failed { reason, detail: shorten(&format!("{place}: {text}")), steps }
    }

    /// Takes the program's hash and words out of `[2, 4, hash, high, low, size, hash, words...]`.
    pub(super) fn user_output(&self, cells: &[Option<Felt>]) -> Result<(Felt, Vec<Felt>), RunError> {
        let steps = self.counted();
        let failed = |detail: String| RunError::Failed { reason: FailureReason::Execution, detail, steps };
        let at =
            |i: usize| cells.get(i).copied().flatten().ok_or_else(|| failed(format!("output cell {i} is no number")));
        let expected = [Felt::from_u128(u128::from(TASKS)), Felt::from_u128(4)];
        if [at(0)?, at(1)?] != expected || [at(3)?, at(4)?] != self.binding {
            return Err(RunError::Internal {
                detail: "the bootloader's output does not begin with the binding task".into(),
            });
        }
        let size = at(5)?.to_u64().and_then(|size| usize::try_from(size).ok());
        if size.is_none_or(|size| size.checked_add(5) != Some(cells.len())) {
            return Err(failed(format!("the output has {} cells, its header says otherwise", cells.len())));
        }
        let words = cells.len().saturating_sub(7);
        if words > limits::OUTPUT_WORDS_MAX {
            return Err(failed(format!("output of {words} words, the limit is {}", limits::OUTPUT_WORDS_MAX)));
        }
        let words = (7..cells.len()).map(at).collect::<Result<Vec<Felt>, _>>()?;
        Ok((at(6)?, words))
    }
}

/// Whether an allocation was refused: the one error that depends on the node.
fn is_capacity(error: &VirtualMachineError) -> bool {
    match error {
        VirtualMachineError::Memory(MemoryError::VecCapacityExceeded) => true,
        VirtualMachineError::Hint(inner) => matches!(inner.1, HintError::Memory(MemoryError::VecCapacityExceeded)),
        _ => false,
    }
}

impl HintProcessorLogic for Processor {
    fn execute_hint(
        &mut self,
        vm: &mut VirtualMachine,
        exec_scopes: &mut ExecutionScopes,
        hint_data: &Box<dyn Any>,
    ) -> Result<(), HintError> {
        self.execute_hint_extensive(vm, exec_scopes, hint_data).map(|_| ())
    }

    fn execute_hint_extensive(
        &mut self,
        vm: &mut VirtualMachine,
        exec_scopes: &mut ExecutionScopes,
        hint_data: &Box<dyn Any>,
    ) -> Result<HintExtension, HintError> {
        match (vm.get_pc().segment_index, self.phase) {
            (0, _) => self.bootloader_hint(vm, exec_scopes, hint_data),
            (_, Phase::BindingTask) => self.binding_hint(vm, exec_scopes, hint_data),
            (_, Phase::UserTask) => self.user_hint(vm, exec_scopes, hint_data),
            (_, Phase::Bootloader) => {
                Err(HintError::CustomHint("a hint outside of the bootloader and the tasks".into()))
            }
        }
    }
}

impl ResourceTracker for Processor {
    fn consumed(&self) -> bool {
        // At the limit the program may just have returned; only the next step tells.
        self.steps > self.stop_at
    }

    fn consume_step(&mut self) {
        self.steps = self.steps.saturating_add(1);
    }
}
