//! Objects of the driver that are released without a panic. `ocl` panics when a release fails, as it does on a lost
//! device; while another panic unwinds, that would end the process instead of the job. Owns nothing but that guard.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An object whose release may fail: the failure is logged. While a panic unwinds it is not released at all: the device is
/// in doubt then, and the driver frees everything with the process.
#[derive(Debug)]
pub(super) struct Quiet<T>(ManuallyDrop<T>);

impl<T> Quiet<T> {
    pub(super) fn new(object: T) -> Self {
        Self(ManuallyDrop::new(object))
    }
}

impl<T> Deref for Quiet<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Quiet<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: this is the only place that drops the object, and nothing can use it afterwards.
        #[allow(unsafe_code, reason = "dropping by hand is the point")]
        let release = || unsafe { ManuallyDrop::drop(&mut self.0) };
        if catch_unwind(AssertUnwindSafe(release)).is_err() {
            tracing::warn!(object = std::any::type_name::<T>(), "the driver refuses to release an object");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the objects of a lost device: its release fails.
    struct Lost;

    impl Drop for Lost {
        fn drop(&mut self) {
            panic!("release failed");
        }
    }

    #[test]
    fn a_failing_release_ends_nothing() {
        drop(Quiet::new(Lost));
        // Without the guard the second panic would end the process.
        let outcome = catch_unwind(|| {
            let _object = Quiet::new(Lost);
            panic!("the first failure");
        });
        let reason = outcome.expect_err("the first failure");
        assert_eq!(reason.downcast_ref::<&str>(), Some(&"the first failure"));
    }
}
