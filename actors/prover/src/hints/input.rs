//! The hints by which a Cairo 0 program reads `program_input`: a small fixed language, parsed, never evaluated.
//!
//! Owns the grammar documented in `HINTS.md` and its meaning on the virtual machine. Relies on the virtual machine's
//! own look-up of `ids.NAME`. Whatever does not match the grammar to the last character is not an input hint.

mod grammar;

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

pub(crate) use self::grammar::InputHint;
use self::grammar::{Expression, Index, Statement, Target};
use crate::{felt, limits};

impl InputHint {
    /// Writes what the hint says.
    ///
    /// # Errors
    /// A hint error whose text names the key and what is wrong with it; errors of the virtual machine's memory.
    pub(crate) fn execute(&self, context: &mut InputContext<'_>) -> Result<(), HintError> {
        self.0.iter().try_for_each(|statement| context.execute(statement))
    }
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
        let divisor =
            Felt252::from(divisor).try_into().map_err(|_| fail(format!("division of ids.{variable} by zero")))?;
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
            fail(format!(
                "program_input['{key}']: more than {} numbers were written from lists",
                limits::INPUT_NUMBERS_MAX
            ))
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
