//! The components of a Cairo proof as provers on the device.

use cairo_air::cairo_components::CairoComponents;
use composition::Visitor;
use stwo::prover::ComponentProver;
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval};

use crate::backend::OclBackend;
use crate::error::{Error, Result};

#[derive(Default)]
struct Collect<'a>(Vec<&'a dyn ComponentProver<OclBackend>>);

impl<'a> Visitor<'a> for Collect<'a> {
    fn visit<E: FrameworkEval + Sync>(&mut self, _name: &'static str, component: &'a FrameworkComponent<E>) {
        self.0.push(component);
    }

    fn visit_other<E: FrameworkEval + Sync>(&mut self, _name: &'static str, component: &'a FrameworkComponent<E>) {
        self.0.push(component);
    }
}

/// The provers of all components that are there, in the library's order.
///
/// # Errors
/// [`Error::Input`] when the library has a component that this build does not know.
pub fn provers(components: &CairoComponents) -> Result<Vec<&dyn ComponentProver<OclBackend>>> {
    let mut collect = Collect::default();
    composition::visit(components, &mut collect);
    let (found, expected) = (collect.0.len(), components.components().len());
    if found == expected {
        return Ok(collect.0);
    }
    Err(Error::Input { field: "components", value: format!("{expected}"), limit: format!("{found} known") })
}
