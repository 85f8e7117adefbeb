//! What the operating system says about this process and machine, from `/proc`.

use std::fs;

/// Memory in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident memory of this process.
    pub(crate) used_mb: u64,
    /// Memory of the machine.
    pub(crate) total_mb: u64,
    /// What new processes may take without swapping.
    pub(crate) available_mb: u64,
}

impl Memory {
    /// Share of the machine's memory that this process uses, to a tenth of a percent.
    pub(crate) fn percent(self) -> f64 {
        let permille = self.used_mb.saturating_mul(1000).checked_div(self.total_mb).unwrap_or(0);
        f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 10.0
    }
}

/// Memory now; zeros where the system does not say.
pub(crate) fn memory() -> Memory {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Memory {
        used_mb: kib(&status, "VmRSS:") / 1024,
        total_mb: kib(&machine, "MemTotal:") / 1024,
        available_mb: kib(&machine, "MemAvailable:") / 1024,
    }
}

/// The number of KiB behind a name.
fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Open file descriptors of this process.
pub(crate) fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| u64::try_from(entries.count()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_some_of_the_machine() {
        let memory = memory();
        assert!(memory.used_mb > 0 && memory.used_mb < memory.total_mb && memory.available_mb <= memory.total_mb);
        assert!(memory.percent() < 100.0);
        assert!(open_files() >= 3);
        assert_eq!(kib("VmRSS:\t  2048 kB\n", "VmRSS:"), 2048);
        assert_eq!(kib("", "VmRSS:"), 0);
    }
}
