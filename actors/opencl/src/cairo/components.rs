//! The components of a Cairo proof as provers on the device.

use cairo_air::cairo_components::CairoComponents;
use composition::Visitor;
use rayon::prelude::*;
use stwo::prover::ComponentProver;
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval};

use crate::backend::OclBackend;
use crate::constraints::{Ahead, Recordable};
use crate::error::{Error, Result};

#[derive(Default)]
struct Collect<'a> {
    provers: Vec<Box<dyn ComponentProver<OclBackend> + 'a>>,
    wanted: Vec<Box<dyn Recordable + 'a>>,
}

impl<'a> Collect<'a> {
    fn add<E: FrameworkEval + Sync>(&mut self, component: &'a FrameworkComponent<E>) {
        let prover = Ahead::new(component);
        self.wanted.extend(prover.wanted());
        self.provers.push(Box::new(prover));
    }
}

impl<'a> Visitor<'a> for Collect<'a> {
    fn visit<E: FrameworkEval + Sync>(&mut self, _name: &'static str, component: &'a FrameworkComponent<E>) {
        self.add(component);
    }

    fn visit_other<E: FrameworkEval + Sync>(&mut self, _name: &'static str, component: &'a FrameworkComponent<E>) {
        self.add(component);
    }
}

/// The provers of all components that are there, in the library's order, their constraints recorded on all threads: one by
/// one this took longer than the device needs to evaluate them.
///
/// # Errors
/// [`Error::Input`] when the library has a component that this build does not know.
pub fn provers(components: &CairoComponents) -> Result<Vec<Box<dyn ComponentProver<OclBackend> + '_>>> {
    let mut collect = Collect::default();
    composition::visit(components, &mut collect);
    let (found, expected) = (collect.provers.len(), components.components().len());
    if found != expected {
        return Err(Error::Input {
            field: "components",
            value: format!("{expected}"),
            limit: format!("{found} known"),
        });
    }
    collect.wanted.par_iter().for_each(|constraints| constraints.record_ahead());
    Ok(collect.provers)
}
