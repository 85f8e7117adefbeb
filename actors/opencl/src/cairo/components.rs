//! The components of a Cairo proof as provers on the device.

use cairo_air::cairo_components::CairoComponents;
use composition::Visitor;
use rayon::prelude::*;
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval};

use crate::constraints::{Ahead, Recordable};
use crate::error::{Error, Result};

#[derive(Default)]
struct Collect<'a>(Vec<Box<dyn Recordable + 'a>>);

impl<'a> Visitor<'a> for Collect<'a> {
    fn visit<E: FrameworkEval + Sync>(&mut self, _name: &'static str, component: &'a FrameworkComponent<E>) {
        self.0.push(Box::new(Ahead::new(component)));
    }

    fn visit_other<E: FrameworkEval + Sync>(&mut self, _name: &'static str, component: &'a FrameworkComponent<E>) {
        self.0.push(Box::new(Ahead::new(component)));
    }
}

/// The provers of all components that are there, in the library's order, their constraints recorded on all threads: one by
/// one this took longer than the device needs to evaluate them.
///
/// # Errors
/// [`Error::Input`] when the library has a component that this build does not know.
pub fn provers(components: &CairoComponents) -> Result<Vec<Box<dyn Recordable + '_>>> {
    let mut collect = Collect::default();
    composition::visit(components, &mut collect);
    let (found, expected) = (collect.0.len(), components.components().len());
    if found != expected {
        return Err(Error::Input {
            field: "components",
            value: format!("{expected}"),
            limit: format!("{found} known"),
        });
    }
    collect.0.par_iter().for_each(|component| component.record_ahead());
    Ok(collect.0)
}
