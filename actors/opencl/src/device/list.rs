//! Which devices there are and which one to use. Owns the listing, its properties in words and the choice; asks the
//! driver for properties only and computes nothing on it.

use ocl::core::{self, DeviceId, DeviceInfo as Query, DeviceInfoResult, DeviceType, PlatformId, PlatformInfo};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A graphics processor.
    Gpu,
    /// The host's processor, driven as a device: right for tests, never faster than the CPU prover.
    Cpu,
    /// Anything else.
    Other,
}

/// A device, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Position in the listing, from 0.
    pub index: usize,
    /// Platform name.
    pub platform: String,
    /// Platform version.
    pub platform_version: String,
    /// Device name.
    pub name: String,
    /// Kind of device.
    pub kind: DeviceKind,
    /// OpenCL version of the device.
    pub version: String,
    /// Driver version.
    pub driver: String,
    /// Compute units.
    pub compute_units: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Largest single allocation in bytes.
    pub allocation_bytes: u64,
    /// Local memory of a work-group in bytes.
    pub local_bytes: u64,
    /// Work items in a work-group at most.
    pub work_group: u64,
    /// Where the device sits or what it says it is (bus address or UUID), as far as its driver tells; else empty.
    #[serde(default)]
    pub place: String,
    /// Tells this device from another one, also after drivers or devices came or went and numbers moved: 16 hex digits over
    /// platform, name, driver and place.
    #[serde(default)]
    pub identity: String,
    /// Why it cannot be used; empty if it can.
    pub refusal: String,
}

impl DeviceInfo {
    fn identified(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.platform, &self.name, &self.driver, &self.place] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

/// A device with the handles that open it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) info: DeviceInfo,
    pub(crate) platform: PlatformId,
    pub(crate) device: DeviceId,
}

/// All devices of all platforms.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listing {
    /// The devices, in the loader's order.
    pub devices: Vec<DeviceInfo>,
}

/// Which device to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Number in the listing, alone or as `number@identity`, or part of the name, letter case ignored; `None` takes the best
    /// device that is allowed. With an identity ([`DeviceInfo::identity`]) another device in that place is refused.
    pub device: Option<String>,
    /// Numbers or parts of names that must not be used.
    pub exclude: Vec<String>,
    /// Take the host's processor too if there is nothing else (tests).
    pub allow_cpu: bool,
}

impl Choice {
    /// Pins a device of any kind, the host's processor included, by number or part of its name.
    #[must_use]
    pub fn pinned(device: &str) -> Self {
        Self { device: Some(device.to_owned()), exclude: Vec::new(), allow_cpu: true }
    }

    /// Any device, the host's processor included.
    #[must_use]
    pub fn any() -> Self {
        Self { device: None, exclude: Vec::new(), allow_cpu: true }
    }

    fn excludes(&self, info: &DeviceInfo) -> bool {
        self.exclude.iter().any(|pattern| matches(pattern, info))
    }

    /// Picks from a listing.
    ///
    /// # Errors
    /// [`Error::UnknownDevice`] if the pinned one is not there or is excluded, [`Error::NoDevice`] if none is left.
    pub fn pick<'a>(&self, devices: &'a [DeviceInfo]) -> Result<&'a DeviceInfo> {
        let allowed = || devices.iter().filter(|info| !self.excludes(info));
        if let Some(wanted) = &self.device {
            let found = allowed()
                .find(|info| matches(wanted, info))
                .ok_or_else(|| Error::UnknownDevice { wanted: wanted.clone(), found: names(devices) })?;
            if found.refusal.is_empty() {
                return Ok(found);
            }
            return Err(Error::NoDevice(format!("{} (number {}): {}", found.name, found.index, found.refusal)));
        }
        let usable = || allowed().filter(|info| info.refusal.is_empty());
        // Among those of a kind the one with the most compute units and memory; what counts, its measured speed against
        // the CPU, is for the caller, who has both.
        let rank = |info: &&DeviceInfo| (info.kind == DeviceKind::Gpu, info.compute_units, info.memory_bytes);
        usable()
            .filter(|info| self.allow_cpu || info.kind != DeviceKind::Cpu)
            .max_by_key(rank)
            .ok_or_else(|| Error::NoDevice(refusals(devices, self)))
    }
}

fn matches(pattern: &str, info: &DeviceInfo) -> bool {
    if let Some((number, identity)) = pattern.trim().split_once('@')
        && let Ok(index) = number.parse::<usize>()
    {
        return index == info.index && identity == info.identity;
    }
    match pattern.trim().parse::<usize>() {
        Ok(index) => index == info.index,
        Err(_) => {
            let pattern = pattern.trim().to_lowercase();
            !pattern.is_empty() && info.name.to_lowercase().contains(&pattern)
        }
    }
}

fn names(devices: &[DeviceInfo]) -> String {
    if devices.is_empty() {
        return "none".to_owned();
    }
    devices.iter().map(|info| format!("{} {}", info.index, info.name)).collect::<Vec<_>>().join(", ")
}

fn refusals(devices: &[DeviceInfo], choice: &Choice) -> String {
    let reason = |info: &DeviceInfo| {
        let why = if choice.excludes(info) {
            "excluded by the configuration"
        } else if info.refusal.is_empty() {
            "the host's processor, slower than the CPU prover"
        } else {
            &info.refusal
        };
        format!("{} {}: {why}", info.index, info.name)
    };
    if devices.is_empty() {
        return "no platform has a device".to_owned();
    }
    devices.iter().map(reason).collect::<Vec<_>>().join("; ")
}

/// Smallest memory with which a proof of useful size can be made.
const MEMORY_MIN_BYTES: u64 = 256 << 20;

fn text(device: DeviceId, query: Query) -> String {
    core::get_device_info(device, query).map_or_else(|_| String::new(), |value| value.to_string().trim().to_owned())
}

fn number(device: DeviceId, query: Query) -> u64 {
    match core::get_device_info(device, query) {
        Ok(DeviceInfoResult::MaxComputeUnits(value)) => u64::from(value),
        Ok(
            DeviceInfoResult::GlobalMemSize(value)
            | DeviceInfoResult::MaxMemAllocSize(value)
            | DeviceInfoResult::LocalMemSize(value),
        ) => value,
        Ok(DeviceInfoResult::MaxWorkGroupSize(value)) => u64::try_from(value).unwrap_or(u64::MAX),
        _ => 0,
    }
}

fn kind(device: DeviceId) -> DeviceKind {
    match core::get_device_info(device, Query::Type) {
        Ok(DeviceInfoResult::Type(kind)) if kind.contains(DeviceType::GPU) => DeviceKind::Gpu,
        Ok(DeviceInfoResult::Type(kind)) if kind.contains(DeviceType::CPU) => DeviceKind::Cpu,
        _ => DeviceKind::Other,
    }
}

/// Queries of extensions by which a device says where it sits or what it is, with the bytes of their answers: bus address
/// (`cl_khr_pci_bus_info`), UUID (`cl_khr_device_uuid`), AMD's topology.
const PLACES: &[(&str, u32, usize)] = &[("pci", 0x410f, 16), ("uuid", 0x106a, 16), ("amd", 0x4037, 24)];
/// NVIDIA's bus, slot and domain, four bytes each.
const PLACE_NVIDIA: [u32; 3] = [0x4008, 0x4009, 0x400a];

/// Where a device sits, from the first query that its driver answers.
fn place(device: DeviceId) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let raw = |query: u32, len: usize| {
        let bytes = core::get_device_info_raw(device, query).ok()?;
        (bytes.len() == len && bytes.iter().any(|byte| *byte != 0)).then_some(bytes)
    };
    for (name, query, len) in PLACES {
        if let Some(bytes) = raw(*query, *len) {
            return format!("{name}:{}", hex(&bytes));
        }
    }
    let number = |query: u32| core::get_device_info_raw(device, query).ok().filter(|bytes| bytes.len() == 4);
    match PLACE_NVIDIA.map(number) {
        [Some(bus), Some(slot), domain] => {
            // As the first of the queries above would answer: domain, bus, device, function.
            let slot = u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]]);
            let words =
                [domain.unwrap_or(vec![0; 4]), bus, (slot >> 3).to_le_bytes().into(), (slot & 7).to_le_bytes().into()];
            format!("pci:{}", hex(&words.concat()))
        }
        _ => String::new(),
    }
}

/// Refuses devices that a listing has twice because two platforms drive them: the first usable one counts.
fn refuse_twins(devices: &mut [DeviceInfo]) {
    for at in 1..devices.len() {
        let (before, rest) = devices.split_at_mut(at);
        let Some(device) = rest.first_mut().filter(|device| device.refusal.is_empty() && !device.place.is_empty())
        else {
            continue;
        };
        if let Some(twin) = before.iter().find(|twin| twin.refusal.is_empty() && twin.place == device.place) {
            device.refusal = format!("it is number {} ({}) once more, on another platform", twin.index, twin.platform);
        }
    }
}

fn flag(device: DeviceId, query: Query) -> bool {
    match core::get_device_info(device, query) {
        Ok(DeviceInfoResult::Available(value) | DeviceInfoResult::CompilerAvailable(value)) => value,
        _ => false,
    }
}

fn refusal(device: DeviceId, info: &DeviceInfo) -> String {
    if !flag(device, Query::Available) {
        "the driver says that it is not available".to_owned()
    } else if !flag(device, Query::CompilerAvailable) {
        "its driver has no compiler".to_owned()
    } else if info.memory_bytes < MEMORY_MIN_BYTES {
        format!("{} bytes of memory, {MEMORY_MIN_BYTES} are needed", info.memory_bytes)
    } else if info.work_group < 64 {
        format!("work-groups of {} items, 64 are needed", info.work_group)
    } else {
        String::new()
    }
}

fn describe(index: usize, platform: PlatformId, device: DeviceId) -> DeviceInfo {
    let platform_text =
        |query| core::get_platform_info(platform, query).map_or_else(|_| String::new(), |value| value.to_string());
    let mut info = DeviceInfo {
        index,
        platform: platform_text(PlatformInfo::Name),
        platform_version: platform_text(PlatformInfo::Version),
        name: text(device, Query::Name),
        kind: kind(device),
        version: text(device, Query::Version),
        driver: text(device, Query::DriverVersion),
        compute_units: number(device, Query::MaxComputeUnits),
        memory_bytes: number(device, Query::GlobalMemSize),
        allocation_bytes: number(device, Query::MaxMemAllocSize),
        local_bytes: number(device, Query::LocalMemSize),
        work_group: number(device, Query::MaxWorkGroupSize),
        place: place(device),
        identity: String::new(),
        refusal: String::new(),
    };
    info.identity = info.identified();
    info.refusal = refusal(device, &info);
    info
}

/// Whether the loader knows a platform. `ocl` asks again for ten seconds if it knows none, in case a driver is waking up
/// in another thread; here there is no other thread.
fn any_platform() -> bool {
    let mut count = 0;
    // SAFETY: with no room for platforms the call only writes their number, to a live variable.
    #[allow(unsafe_code, reason = "a call of the loader that ocl wraps with a wait")]
    let status = unsafe { ocl::ffi::clGetPlatformIDs(0, std::ptr::null_mut(), &raw mut count) };
    status == 0 && count > 0
}

/// All devices with their handles. A platform that fails is skipped with a log line: another may work.
pub(crate) fn find() -> Result<Vec<Found>> {
    if !any_platform() {
        return Err(Error::NoPlatform("none is registered".to_owned()));
    }
    let platforms =
        core::get_platform_ids().map_err(|error| Error::NoPlatform(crate::error::first_lines(&error.to_string())))?;
    let mut found = Vec::new();
    for platform in platforms {
        match core::get_device_ids(platform, Some(DeviceType::ALL), None) {
            Ok(devices) => {
                for device in devices {
                    found.push(Found { info: describe(found.len(), platform, device), platform, device });
                }
            }
            Err(error) => tracing::warn!(%error, "a platform does not list its devices"),
        }
    }
    let mut infos: Vec<DeviceInfo> = found.iter().map(|found| found.info.clone()).collect();
    refuse_twins(&mut infos);
    for (found, info) in found.iter_mut().zip(infos) {
        found.info = info;
    }
    Ok(found)
}

/// Lists all devices of all platforms. A broken driver may crash here: see [`crate::probe`].
///
/// # Errors
/// [`Error::NoPlatform`] if the loader knows none.
pub fn list() -> Result<Listing> {
    Ok(Listing { devices: find()?.into_iter().map(|found| found.info).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: usize, name: &str, kind: DeviceKind, units: u64, refusal: &str) -> DeviceInfo {
        DeviceInfo {
            index,
            platform: "p".to_owned(),
            platform_version: "1".to_owned(),
            name: name.to_owned(),
            kind,
            version: "3.0".to_owned(),
            driver: "1".to_owned(),
            compute_units: units,
            memory_bytes: 1 << 30,
            allocation_bytes: 1 << 28,
            local_bytes: 1 << 15,
            work_group: 1024,
            place: String::new(),
            identity: format!("{index}{name}"),
            refusal: refusal.to_owned(),
        }
    }

    #[test]
    fn the_best_allowed_device_is_picked() {
        let devices = [
            device(0, "Host CPU", DeviceKind::Cpu, 999, ""),
            device(1, "Small GPU", DeviceKind::Gpu, 8, ""),
            device(2, "Large GPU", DeviceKind::Gpu, 80, ""),
            device(3, "Broken GPU", DeviceKind::Gpu, 800, "no compiler"),
        ];
        let pick = |choice: &Choice| choice.pick(&devices).map(|info| info.index);
        assert_eq!(pick(&Choice::default()).expect("a GPU"), 2);
        assert_eq!(pick(&Choice::pinned("small")).expect("by name"), 1);
        assert_eq!(pick(&Choice::pinned("0")).expect("by number"), 0);
        let without =
            |list: &[&str]| Choice { exclude: list.iter().map(|s| (*s).to_owned()).collect(), ..Choice::default() };
        assert_eq!(pick(&without(&["large"])).expect("the other"), 1);
        let error = pick(&without(&["1", "2"])).expect_err("only CPU left").to_string();
        assert!(error.contains("Small GPU: excluded") && error.contains("Broken GPU: no compiler"), "{error}");
        assert!(matches!(pick(&Choice::pinned("3")), Err(Error::NoDevice(reason)) if reason.contains("no compiler")));
        let error = pick(&Choice::pinned("xyz")).expect_err("unknown").to_string();
        assert!(error.contains("2 Large GPU"), "{error}");
        assert!(matches!(Choice::any().pick(&[]), Err(Error::NoDevice(_))));
        // A number with an identity is that device or none.
        let wanted = format!("2@{}", devices[2].identity);
        assert_eq!(pick(&Choice::pinned(&wanted)).expect("the same device"), 2);
        let moved = format!("1@{}", devices[2].identity);
        assert!(matches!(pick(&Choice::pinned(&moved)), Err(Error::UnknownDevice { .. })));
        let updated = DeviceInfo { driver: "2".to_owned(), ..devices[2].clone() };
        assert_ne!(updated.identified(), devices[2].identified(), "another driver is another device to be tested");
    }

    #[test]
    fn a_device_of_two_platforms_counts_once() {
        let at = |index, place: &str, refusal: &str| DeviceInfo {
            place: place.to_owned(),
            ..device(index, "GPU", DeviceKind::Gpu, 8, refusal)
        };
        let mut devices = [
            at(0, "pci:01", "no compiler"),
            at(1, "pci:01", ""),
            at(2, "pci:02", ""),
            at(3, "pci:01", ""),
            at(4, "", ""),
            at(5, "", ""),
        ];
        refuse_twins(&mut devices);
        let usable: Vec<usize> = devices.iter().filter(|info| info.refusal.is_empty()).map(|info| info.index).collect();
        assert_eq!(usable, [1, 2, 4, 5], "without a place nothing is known to be the same");
        assert!(devices[3].refusal.contains("number 1"), "{}", devices[3].refusal);
    }
}
