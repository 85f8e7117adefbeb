//! The constraints of every Cairo component, whose kernels take a driver minutes to compile.

use super::Context;
use crate::cairo::check::{LOG_SIZE_SAMPLE, compare, components};

pub(super) fn cairo_constraints_have_the_hosts_values(_: &Context) {
    for component in components(LOG_SIZE_SAMPLE, 1).expect("the components") {
        if let Err(error) = compare(&component, LOG_SIZE_SAMPLE) {
            panic!("{}: {error}", component.name);
        }
    }
}
