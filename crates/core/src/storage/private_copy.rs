// SPDX-License-Identifier: MIT
//! A copy of a blob that costs nothing until it is written to: the same pages of the file, mapped
//! once more, in such a way that the kernel copies each page that this process writes to.

use core::ptr::NonNull;

use crate::family::CopyOnWrite;
use crate::storage::Blob;

/// The bytes of a blob that nobody writes to any more, to be changed at will: nobody else sees it.
#[derive(Debug)]
pub struct PrivateCopy {
    // Unmapped before the blob is let go of, whose pages it shows.
    pages: CopyOnWrite,
    _blob: Blob,
}

impl PrivateCopy {
    /// A copy of all of the blob; `None` if there is no room to map it.
    #[must_use]
    pub fn of(blob: Blob) -> Option<Self> {
        let pages = blob.copy_on_write()?;
        Some(Self { pages, _blob: blob })
    }

    /// Where it is, for as many bytes as the blob has capacity for, as long as this value lives.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.pages.as_ptr()
    }
}
