// SPDX-License-Identifier: MIT
//! Copying much at once into a family's memory.
//!
//! Pages that the file doesn't have yet are best written through the file: the kernel needn't
//! clear them first, nor be called for each. Pages that it has, and that this process has mapped,
//! are best written through the mapping. Measured with 16 MiB: 8 ms against 15, and 2.5 against 5.
//! So a part of the file is written through the file once, and from then on through the mapping,
//! until pages are given back.

use core::ptr::NonNull;

use rustix::io::Errno;

use super::kernel::pwrite;
use super::layout::PAYLOAD;
use super::{Family, PARTS, Run};
use crate::crash;
use crate::primitive::Ordering::Relaxed;

const PART: u64 = 1 << 20;
/// Less than that goes through the mapping at once.
const SHORTEST: usize = 16 << 10;

impl Family {
    /// Copies `bytes` to position `at` of an object's payload.
    ///
    /// # Safety
    ///
    /// The payload has so many bytes there, and nobody uses them.
    pub(crate) unsafe fn write(&self, run: Run, at: usize, bytes: &[u8]) {
        let mut offset = run.0 + PAYLOAD + at as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = usize::try_from(PART - offset % PART).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(left.min(rest.len()));
            if !self.write_to_file(offset, now) {
                // SAFETY: passed on to the caller.
                unsafe { self.write_to_mapping(offset, now) };
            }
            offset += now.len() as u64;
            rest = later;
        }
    }

    /// False if it is better, or necessary, to write to the mapping; some may be written.
    fn write_to_file(&self, mut offset: u64, bytes: &[u8]) -> bool {
        if bytes.len() < SHORTEST {
            return false;
        }
        // Relaxed: a guess. Zero is never.
        let now = self.header().trims.load(Relaxed).wrapping_add(1);
        let part = usize::try_from(offset / PART).unwrap_or(0) % PARTS;
        // No step: this process's own.
        if self.written[part].swap(now, Relaxed) == now {
            return false;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            crash::step!("write.to_file");
            let written = pwrite(&self.file, rest, offset);
            crash::step!("write.in_file");
            match written {
                Ok(written) if written > 0 => {
                    offset += written as u64;
                    rest = &rest[written..];
                }
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// # Safety
    ///
    /// As for `write`.
    unsafe fn write_to_mapping(&self, offset: u64, bytes: &[u8]) {
        if let Some(target) = self.resolve(offset, bytes.len()) {
            let source = NonNull::from(bytes).cast();
            crash::step!("write.to_mapping");
            // SAFETY: resolved; the caller's promise.
            unsafe { target.copy_from_nonoverlapping(source, bytes.len()) };
            crash::step!("write.in_mapping");
        }
    }
}
