//! *bootloader* and *output*: the program that was run is the pinned bootloader, and the public output is what it wrote.

use cairo_air::air::{PublicData, PublicMemory};
use types::felt::Felt;
use types::limits::OUTPUT_WORDS_MAX;
use types::verdict::Check;

use super::segments;
use super::tasks::{HEADER_WORDS, Task, parse};
use crate::Rejection;
use crate::felts;
use crate::policy::{BOOTLOADER_DIGEST, BOOTLOADER_SEGMENTS, BOOTLOADER_WORDS};

/// The program begins at address 1; two cells of the safe call lie between its end and the initial frame.
const PROGRAM_START: u32 = 1;
const SAFE_CALL_CELLS: u32 = 2;
/// Address of the bootloader's last instruction, a jump to itself.
const FINAL_PC: u32 = 5;

/// The program section is the pinned bootloader word for word, all its segments are there, and the registers stand where
/// its length puts them.
pub(crate) fn bootloader(public: &PublicData) -> Result<(), Rejection> {
    let refuse = |reason: String| Rejection::because(Check::Bootloader, reason);
    let memory = &public.public_memory;
    let words = memory.program.len();
    if words != BOOTLOADER_WORDS {
        return refuse(format!("the program has {words} words, the pinned bootloader has {BOOTLOADER_WORDS}"));
    }
    if program_digest(memory) != BOOTLOADER_DIGEST {
        return refuse("the program's words are not those of the pinned bootloader".into());
    }
    if let Some((name, _)) = segments(&memory.public_segments).into_iter().find(|(_, segment)| segment.is_none()) {
        return refuse(format!("segment {name} is missing"));
    }
    let frame = u32::try_from(words).unwrap_or(u32::MAX).saturating_add(PROGRAM_START + SAFE_CALL_CELLS);
    let (first, last) = (public.initial_state, public.final_state);
    let registers = [
        ("initial pc", first.pc.0, PROGRAM_START),
        ("initial ap", first.ap.0, frame),
        ("initial fp", first.fp.0, frame),
        ("final pc", last.pc.0, FINAL_PC),
        ("final fp", last.fp.0, frame),
    ];
    if let Some((name, found, wanted)) = registers.into_iter().find(|(_, found, wanted)| found != wanted) {
        return refuse(format!("{name} is {found}, must be {wanted}"));
    }
    // The bootloader's arguments and return values, one pointer per segment each, do not overlap.
    let least = frame.saturating_add(2 * BOOTLOADER_SEGMENTS);
    if last.ap.0 < least {
        return refuse(format!("final ap is {}, must be at least {least}", last.ap.0));
    }
    Ok(())
}

fn program_digest(memory: &PublicMemory) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (_, words) in &memory.program {
        for word in words {
            hasher.update(&word.to_le_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// The output section lies where the output segment says, has its length, and reads as the bootloader's task list.
///
/// The stock verifier places the public output at the final `ap` and never compares that with the output segment: shifted
/// by one, the "output" would be cells that the output builtin does not speak of.
pub(crate) fn output(public: &PublicData) -> Result<Vec<Task>, Rejection> {
    let refuse = |reason: String| Rejection::because(Check::Output, reason);
    let memory = &public.public_memory;
    let segment = memory.public_segments.output;
    let (start, stop) = (segment.start_ptr.value, segment.stop_ptr.value);
    let final_ap = public.final_state.ap.0;
    if start != final_ap {
        return refuse(format!("the output segment begins at {start}, the public output at {final_ap}"));
    }
    let words = memory.output.len();
    let max = OUTPUT_WORDS_MAX.saturating_add(HEADER_WORDS);
    if words > max {
        return refuse(format!("{words} output words, at most {max} are allowed"));
    }
    if u64::from(start).checked_add(words as u64) != Some(u64::from(stop)) {
        return refuse(format!("the output segment is {start} to {stop}, the public output has {words} words"));
    }
    let values: Option<Vec<Felt>> = memory.output.iter().map(|(_, words)| felts::from_words(words)).collect();
    match values {
        Some(values) => parse(&values),
        None => refuse("an output word is not below the Stark prime".into()),
    }
}
