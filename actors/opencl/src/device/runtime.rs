//! The one device of this process. Owns its context, queue, memory slabs and kernels; everything runs on one in-order
//! queue, so a kernel sees what was enqueued before it and memory may be reused at once. Relies on the arena for
//! addresses and on the queue for the calls.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ocl::core::{self, ContextProperties, Program};
use prover::worker::Activity;

use super::arena::{Arena, GRANULE_WORDS, Place, SLAB_WORDS_MAX, SLABS_MAX};
use super::counters::{Counters, Tally};
use super::list::{Choice, DeviceInfo, DeviceKind, Found, find};
use super::program::{Builder, CacheReport};
use super::queue::{Started, State};
use super::release::Quiet;
use super::staging::Parts;
use crate::error::{Error, Result, raise, settle};
use crate::kernels::{self, TILE_BYTES, TILE_ITEMS};

/// How to open the device.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which device.
    pub choice: Choice,
    /// Folder of compiled kernels; `None` compiles them at every start.
    pub cache: Option<PathBuf>,
    /// Bytes of device memory to use at most; `None`: nine tenths of what the device has.
    pub memory_limit: Option<u64>,
}

/// Least size of the first slab. A proof that needs more says so before it starts, see [`Runtime::must_fit`].
const FIRST_SLAB_BYTES: u64 = 1 << 30;
/// The same for the host's processor, whose memory is the host's.
const HOST_SLAB_BYTES: u64 = 256 << 20;

/// The open device.
#[derive(Debug)]
pub struct Runtime {
    info: DeviceInfo,
    tally: Tally,
    calls: Calls,
    builder: Builder,
    /// Whether transforms may use local memory.
    tiles: AtomicBool,
    /// Whether the kernels with local memory are built.
    local: AtomicBool,
    state: Mutex<State>,
}

/// A piece of device memory; freed when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    place: Place,
}

/// A kernel start: name, work items in two dimensions, and its arguments after the slabs.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Name in the program.
    pub(crate) kernel: &'a str,
    /// Items in the first dimension; rounded up to whole work-groups, so kernels compare with an argument.
    pub(crate) items: usize,
    /// Items in the second dimension.
    pub(crate) rows: usize,
    /// Scalar arguments and block addresses.
    pub(crate) args: &'a [u32],
}

/// Calls of the driver.
#[derive(Debug, Default)]
struct Calls {
    /// Those that came back, compilations included.
    done: AtomicU64,
    /// Threads that wait for one, or for their turn.
    open: AtomicU64,
    /// Compilations under way.
    compilers: AtomicU64,
}

impl Calls {
    fn within<'a>(&'a self, open: &'a AtomicU64) -> Within<'a> {
        open.fetch_add(1, Ordering::Relaxed);
        Within { open, done: &self.done }
    }
}

/// A call under way, also when it ends in a panic.
struct Within<'a> {
    open: &'a AtomicU64,
    done: &'a AtomicU64,
}

impl Drop for Within<'_> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static OPENING: Mutex<()> = Mutex::new(());

/// Opens the device of this process, or returns it if it is open already and the choice allows it.
///
/// # Errors
/// Whatever keeps the device from being used, in words; [`Error::AlreadyOpen`] if another one is in use.
pub fn open(options: &Options) -> Result<&'static Runtime> {
    let _guard = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        let found = std::slice::from_ref(&runtime.info);
        return match options.choice.pick(found) {
            Ok(_) => Ok(runtime),
            Err(_) => Err(Error::AlreadyOpen(runtime.info.name.clone())),
        };
    }
    let found = find()?;
    let infos: Vec<DeviceInfo> = found.iter().map(|found| found.info.clone()).collect();
    let index = options.choice.pick(&infos)?.index;
    let found = found.into_iter().nth(index).ok_or_else(|| Error::NoDevice("it vanished".to_owned()))?;
    let runtime = Runtime::new(found, options)?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// The open device; [`raise`]s if none was opened.
pub(crate) fn runtime() -> &'static Runtime {
    RUNTIME.get().unwrap_or_else(|| raise(Error::NoDevice("no device was opened in this process".to_owned())))
}

impl Runtime {
    fn new(found: Found, options: &Options) -> Result<Self> {
        let Found { info, platform, device } = found;
        let properties = ContextProperties::new().platform(platform);
        let context =
            core::create_context(Some(&properties), &[device], None, None).map_err(Error::call("create context"))?;
        let queue = core::create_command_queue(&context, device, None).map_err(Error::call("create queue"))?;
        let limit_words = options.memory_limit.unwrap_or(info.memory_bytes / 10 * 9) / 4;
        let granules = |bytes: u64| (bytes / 4).min(SLAB_WORDS_MAX) / GRANULE_WORDS * GRANULE_WORDS;
        let slab_words_max = granules(info.allocation_bytes);
        let first = if info.kind == DeviceKind::Cpu { HOST_SLAB_BYTES } else { FIRST_SLAB_BYTES };
        let slab_words = granules(first.min(limit_words * 4)).min(slab_words_max);
        let state = State {
            context: context.clone(),
            queue,
            arena: Arena::default(),
            slabs: [const { None }; SLABS_MAX],
            limit_words,
            slab_words,
            slab_words_max,
            kernels: HashMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            report: CacheReport::default(),
            staging: None,
            tables: None,
        };
        let builder = Builder { context, device, info: info.clone(), folder: options.cache.clone() };
        let (tally, calls, tiles) = (Tally::default(), Calls::default(), AtomicBool::new(true));
        let runtime =
            Self { info, tally, calls, builder, tiles, local: AtomicBool::new(false), state: Mutex::new(state) };
        let plain = kernels::plain();
        runtime.add_program(plain.what, &plain.source, plain.kernels)?;
        if runtime.has_room_for_tiles() {
            let local = kernels::local();
            match runtime.add_program(local.what, &local.source, local.kernels) {
                Ok(()) => runtime.local.store(true, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, "transforms stay in registers"),
            }
        }
        Ok(runtime)
    }

    /// The device's description.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The counters' present values.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.tally.snapshot()
    }

    /// In strict mode any work on the host in the device's place, and any read of one element, panics.
    pub fn set_strict(&self, strict: bool) {
        self.tally.set_strict(strict);
    }

    /// What the kernel cache did.
    #[must_use]
    pub fn cache_report(&self) -> CacheReport {
        self.lock().report
    }

    /// What goes on, without a lock: also while a call of the driver hangs.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity {
            progress: self.calls.done.load(Ordering::Relaxed),
            compiling: self.calls.compilers.load(Ordering::Relaxed) > 0,
            waiting: self.calls.open.load(Ordering::Relaxed) > 0,
        }
    }

    /// Bytes of device memory in use, and the most at once since [`Runtime::reset_peak`].
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        let state = self.lock();
        (state.arena.used() * 4, state.arena.peak() * 4)
    }

    /// Bytes of device memory that may be used: the limit, or what the driver's largest allocation allows four slabs.
    #[must_use]
    pub fn memory_limit(&self) -> u64 {
        self.lock().capacity_words() * 4
    }

    /// Declines a job that needs more memory than may be used, whatever is free at the moment; takes memory from the
    /// driver for one that fits.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with both figures, or what the driver says.
    pub fn must_fit(&self, needed: u64) -> Result<()> {
        let mut state = self.lock();
        let limit = state.capacity_words() * 4;
        if needed > limit {
            return Err(Error::OutOfMemory { needed, free: limit, limit });
        }
        state.reserve(needed.div_ceil(4))
    }

    /// Starts the memory peak again.
    pub fn reset_peak(&self) {
        self.lock().arena.reset_peak();
    }

    /// Identifies the kernel library together with the device and its driver.
    #[must_use]
    pub fn library_key(&self) -> String {
        let local = if self.local.load(Ordering::Relaxed) { kernels::local().source } else { String::new() };
        self.builder.key(&format!("{}{local}", kernels::plain().source))
    }

    pub(crate) fn host_fallback(&self, what: &str) {
        self.tally.host_fallback(what);
    }

    pub(crate) fn element_read(&self, len: usize) {
        self.tally.element_read(len);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves complete calls behind; the device's own errors come back by themselves.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds a program (without holding the lock: compilers are slow) and makes its kernels callable.
    pub(crate) fn add_program(&self, what: &str, source: &str, names: &[&str]) -> Result<()> {
        let mut report = CacheReport::default();
        let compiling = self.calls.within(&self.calls.compilers);
        let built = self.builder.build(what, source, &mut report);
        drop(compiling);
        let mut state = self.lock();
        state.report.loaded += report.loaded;
        state.report.compiled += report.compiled;
        state.report.broken += report.broken;
        state.report.unwritten += report.unwritten;
        let program: Quiet<Program> = Quiet::new(built?);
        for name in names {
            let kernel = core::create_kernel(&program, name).map_err(Error::call("create kernel"))?;
            state.kernels.insert((*name).to_owned(), Started { kernel: Quiet::new(kernel), starts: 0 });
        }
        Ok(())
    }

    /// Takes device memory of `words` words; its content is undefined.
    pub(crate) fn take(&self, words: usize) -> Block {
        let _waiting = self.calls.within(&self.calls.open);
        let mut state = self.lock();
        let place = settle(state.take(words as u64));
        Block { place }
    }

    /// Lets transforms use local memory, or not: both paths give the same.
    pub fn set_tiles(&self, tiles: bool) {
        self.tiles.store(tiles, Ordering::Relaxed);
    }

    /// Whether transforms use local memory: if they may, and the device has enough of it and large work-groups.
    pub(crate) fn tiles(&self) -> bool {
        self.local.load(Ordering::Relaxed) && self.tiles.load(Ordering::Relaxed)
    }

    fn has_room_for_tiles(&self) -> bool {
        self.info.local_bytes >= TILE_BYTES && self.info.work_group >= TILE_ITEMS as u64
    }

    /// The kernels of the library that a job on this device may start.
    #[must_use]
    pub fn library_kernels(&self) -> Vec<&'static str> {
        let mut names = kernels::plain().kernels.to_vec();
        match self.local.load(Ordering::Relaxed) {
            true => names.extend(kernels::local().kernels),
            false => names.retain(|name| !kernels::BESIDE_TILES.contains(name)),
        }
        names
    }

    /// How often a kernel was started since its program was built.
    #[must_use]
    pub fn starts(&self, kernel: &str) -> u64 {
        self.lock().kernels.get(kernel).map_or(0, |started| started.starts)
    }

    /// Starts a kernel; it runs after everything started before.
    pub(crate) fn launch(&self, launch: &Launch<'_>) {
        self.launch_grouped(launch, None);
    }

    /// As [`Runtime::launch`], for kernels whose work-groups have a size of their own.
    pub(crate) fn launch_in_groups(&self, launch: &Launch<'_>, group: usize) {
        self.launch_grouped(launch, Some(group));
    }

    fn launch_grouped(&self, launch: &Launch<'_>, group: Option<usize>) {
        if launch.items == 0 || launch.rows == 0 {
            return;
        }
        let _waiting = self.calls.within(&self.calls.open);
        let mut state = self.lock();
        settle(state.launch(launch, group));
        self.tally.kernels.fetch_add(1, Ordering::Relaxed);
    }

    /// Copies words to the device without waiting.
    pub(crate) fn write(&self, block: &Block, offset: usize, words: Vec<u32>) {
        if words.is_empty() {
            return;
        }
        self.tally.writes.fetch_add(1, Ordering::Relaxed);
        self.tally.bytes_to_device.fetch_add(words.len() as u64 * 4, Ordering::Relaxed);
        let _waiting = self.calls.within(&self.calls.open);
        settle(self.lock().write(block.place, offset, words));
    }

    /// Copies columns to the first `words` words of a block, from pinned memory that all threads fill. The columns are
    /// not read any more when it returns.
    pub(crate) fn write_columns(&self, block: &Block, words: usize, parts: &Parts<'_>) {
        if words == 0 {
            return;
        }
        self.tally.writes.fetch_add(1, Ordering::Relaxed);
        self.tally.bytes_to_device.fetch_add(words as u64 * 4, Ordering::Relaxed);
        let _waiting = self.calls.within(&self.calls.open);
        settle(self.lock().write_columns(block.place, words, parts));
    }

    /// Copies words from the device; waits for it.
    pub(crate) fn read(&self, block: &Block, offset: usize, len: usize) -> Vec<u32> {
        if len == 0 {
            return Vec::new();
        }
        self.tally.bytes_to_host.fetch_add(len as u64 * 4, Ordering::Relaxed);
        self.tally.reads.fetch_add(1, Ordering::Relaxed);
        let _waiting = self.calls.within(&self.calls.open);
        settle(self.lock().read(block.place, offset, len))
    }

    /// Copies words on the device: source and its first word, then target and its first word.
    pub(crate) fn copy(&self, source: (&Block, usize), target: (&Block, usize), len: usize) {
        if len > 0 {
            let _waiting = self.calls.within(&self.calls.open);
            settle(self.lock().copy((source.0.place, source.1), (target.0.place, target.1), len));
        }
    }

    /// Sets words to zero.
    pub(crate) fn zero(&self, block: &Block, offset: usize, len: usize) {
        if len > 0 {
            let _waiting = self.calls.within(&self.calls.open);
            settle(self.lock().zero(block.place, offset, len));
        }
    }

    /// Waits for all that was started.
    pub(crate) fn finish(&self) {
        let _waiting = self.calls.within(&self.calls.open);
        settle(self.lock().finish());
    }
}

/// The slab of an address.
pub(crate) fn slab_of(address: u32) -> u32 {
    address >> 30
}

/// The granule of an address in its slab.
pub(crate) fn granule_of(address: u32) -> u32 {
    address & 0x3fff_ffff
}

impl Block {
    /// The address that kernels take: slab in the upper two bits, granule in the lower thirty. `offset` is in words.
    pub(crate) fn address(&self, offset: usize) -> u32 {
        let first = self.place.offset + offset as u64;
        debug_assert!(first.is_multiple_of(GRANULE_WORDS), "a kernel's column begins at a granule");
        ((self.place.slab as u32) << 30) | (first / GRANULE_WORDS) as u32
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(runtime) = RUNTIME.get() {
            runtime.lock().arena.give_back(self.place);
        }
    }
}
