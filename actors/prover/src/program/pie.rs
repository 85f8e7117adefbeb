//! Cairo PIEs: zip archives with the memory of a finished run.
//!
//! The archive's own sizes are claims of a stranger, so what is bounded is what comes out while it is unpacked; and the
//! segments' declared sizes are bounded before anything is placed at their addresses.

use std::io::{Cursor, Read};

use cairo_vm::types::builtin_name::BuiltinName;
use cairo_vm::types::relocatable::MaybeRelocatable;
use cairo_vm::vm::runners::cairo_pie::{CairoPie, CairoPieMemory, CairoPieMetadata, CairoPieVersion, SegmentInfo};
use serde::de::DeserializeOwned;
use types::felt::Felt;
use types::job::ProgramKind;
use zip::ZipArchive;

use super::{Loaded, Program};
use crate::error::ProgramError;
use crate::{felt, limits};

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

pub(super) fn load(bytes: &[u8]) -> Result<Program, ProgramError> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))
        .map_err(|e| ProgramError::malformed("program", format!("zip archive: {e}")))?;
    if archive.len() > limits::PIE_ENTRIES_MAX {
        return Err(ProgramError::too_large("zip entries", limits::PIE_ENTRIES_MAX, "files"));
    }
    let version: CairoPieVersion = json(&mut archive, "version.json")?;
    let metadata: CairoPieMetadata = json(&mut archive, "metadata.json")?;
    check_segments(&metadata)?;
    let execution_resources = json(&mut archive, "execution_resources.json")?;
    let additional_data = json(&mut archive, "additional_data.json")?;
    let cells = unpack(&mut archive, "memory.bin", limits::PIE_MEMORY_BYTES_MAX)?;
    let memory = CairoPieMemory::from_bytes(&cells)
        .ok_or_else(|| ProgramError::malformed("memory.bin", format!("{} bytes are no list of cells", cells.len())))?;
    drop(cells);
    let pie = CairoPie { metadata, memory, execution_resources, additional_data, version };
    pie.run_validity_checks().map_err(|e| ProgramError::malformed("metadata.json", e.to_string()))?;
    check_stack(&pie)?;
    let stripped = pie.metadata.program.clone();
    let program = Program::new(ProgramKind::Pie, stripped, 0, Loaded::Pie(Box::new(pie)))?;
    program.pie_output()?;
    Ok(program)
}

/// Unpacks one file, never more than `limit` bytes whatever the archive claims.
fn unpack(archive: &mut Archive<'_>, name: &'static str, limit: usize) -> Result<Vec<u8>, ProgramError> {
    let file = archive.by_name(name).map_err(|e| ProgramError::malformed(name, format!("in the zip archive: {e}")))?;
    let mut out = Vec::new();
    let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(one_more)
        .read_to_end(&mut out)
        .map_err(|e| ProgramError::malformed(name, format!("in the zip archive: {e}")))?;
    if out.len() > limit {
        return Err(ProgramError::too_large(name, limit, "bytes unzipped"));
    }
    Ok(out)
}

fn json<T: DeserializeOwned>(archive: &mut Archive<'_>, name: &'static str) -> Result<T, ProgramError> {
    let bytes = unpack(archive, name, limits::PIE_JSON_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|e| ProgramError::malformed(name, e.to_string()))
}

/// The sizes bound every address that the loader may place a value at.
fn check_segments(metadata: &CairoPieMetadata) -> Result<(), ProgramError> {
    let own =
        [&metadata.program_segment, &metadata.execution_segment, &metadata.ret_fp_segment, &metadata.ret_pc_segment];
    let all: Vec<&SegmentInfo> =
        own.into_iter().chain(metadata.builtin_segments.values()).chain(&metadata.extra_segments).collect();
    if all.len() > limits::PIE_SEGMENTS_MAX {
        return Err(ProgramError::too_large("metadata.json segments", limits::PIE_SEGMENTS_MAX, "segments"));
    }
    let cells = all.iter().try_fold(0usize, |sum, segment| sum.checked_add(segment.size));
    if cells.is_none_or(|sum| sum > limits::PIE_CELLS_MAX) {
        return Err(ProgramError::too_large("metadata.json segment sizes", limits::PIE_CELLS_MAX, "cells"));
    }
    Ok(())
}

/// The library takes the first cells of the execution segment for the builtins' start addresses without looking.
fn check_stack(pie: &CairoPie) -> Result<(), ProgramError> {
    let execution = usize::try_from(pie.metadata.execution_segment.index)
        .map_err(|_| ProgramError::malformed("metadata.json", "execution segment index is negative"))?;
    for (offset, builtin) in pie.metadata.program.builtins.iter().enumerate() {
        let expected = pie.metadata.builtin_segments.get(builtin).map(|segment| segment.index);
        let found = pie.memory.0.iter().find(|(address, _)| *address == (execution, offset)).map(|(_, value)| value);
        let is_start = match found {
            Some(MaybeRelocatable::RelocatableValue(start)) => {
                start.offset == 0 && Some(start.segment_index) == expected
            }
            _ => false,
        };
        if !is_start {
            let detail = format!("cell {execution}:{offset} is not the start of the {} segment", builtin.to_str());
            return Err(ProgramError::malformed("memory.bin", detail));
        }
    }
    Ok(())
}

/// The words of the output segment.
pub(super) fn output(pie: &CairoPie) -> Result<Vec<Felt>, ProgramError> {
    let Some(segment) = pie.metadata.builtin_segments.get(&BuiltinName::output) else {
        return Ok(Vec::new());
    };
    if segment.size > limits::OUTPUT_WORDS_MAX {
        return Err(ProgramError::too_large("output", limits::OUTPUT_WORDS_MAX, "words"));
    }
    let mut words: Vec<Option<Felt>> = vec![None; segment.size];
    for ((index, offset), value) in &pie.memory.0 {
        let in_output = isize::try_from(*index) == Ok(segment.index);
        if let (true, MaybeRelocatable::Int(word), Some(slot)) = (in_output, value, words.get_mut(*offset)) {
            *slot = Some(felt::from_vm(word));
        }
    }
    words
        .into_iter()
        .enumerate()
        .map(|(i, word)| {
            word.ok_or_else(|| ProgramError::malformed("memory.bin", format!("output word {i} is no number")))
        })
        .collect()
}
