// SPDX-License-Identifier: MIT
//! Large messages: what of them lies in a blob, and the views on it that the receiver gets.
//!
//! ```text
//!   record in the queue:  | blob's name | count | flags | length of each part ...
//!                              | name of each part's blob, if it isn't this one ... | pickle |
//!   blob:                 | (pickle, if it is long) | part | part | ...    each at 64 bytes
//! ```
//!
//! Parts are written once, by the sender, before the message is put. A receiver's arrays are
//! views on the blob: nothing is copied out, and the last view that goes frees it. A part that lies
//! in another blob is one that others read as well: who may write to it gets a private copy, whose
//! pages are copied as they are written to. Objects that the pickle names are kept by the blob.

#![expect(
    unsafe_code,
    reason = "Python's buffers, and memory that is shared with other processes"
)]

use core::ffi::c_int;
use core::ptr::NonNull;
use std::sync::Arc;

use freethreading_core::deadline::Deadline;
use freethreading_core::family::Family;
use freethreading_core::park::{Park, Parked};
use freethreading_core::queue::Patience;
use freethreading_core::storage::{Blob, BlobName, Passenger, PrivateCopy, Storage, Unavailable};
use pyo3::PyTypeInfo;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString};

use crate::errors::{FULL, out_of_memory};
use crate::imported::Imported;
use crate::made;
use crate::message::Pickled;
use crate::wait::wait;

/// From this length on, bytes go into a blob.
pub(crate) const LARGE: usize = 64 << 10;

const ALIGNMENT: usize = 64;
/// In a part's length: the receiver must not write to it.
const READ_ONLY: u64 = 1 << 63;
/// In a part's length: it lies in another blob.
const ELSEWHERE: u64 = 1 << 62;
/// In the flags: the first part is the pickle.
const PICKLE_IS_PART: u32 = 1;
/// Count and flags.
const FIXED: usize = 8;

/// Where large messages are stored, and until when somebody is waited for who is in the middle of
/// changing something there.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    storage: Storage,
    until: Option<Deadline>,
}

impl From<Storage> for Place {
    /// For who waits however long it takes.
    fn from(storage: Storage) -> Self {
        let until = None;
        Self { storage, until }
    }
}

impl Place {
    pub(crate) fn new(storage: Storage, patience: Patience) -> Self {
        let until = patience.of_mutex(storage);
        Self { storage, until }
    }

    pub(crate) fn storage(self) -> Storage {
        self.storage
    }

    fn make_blob(
        self,
        park: &impl Park,
        family: &'static Family,
        length: usize,
        passengers: &[Passenger],
    ) -> Result<Blob, Unavailable> {
        loop {
            match Blob::try_new(family, length, passengers) {
                Err(Unavailable::Busy) => {}
                outcome => return outcome,
            }
            match self.storage.await_entry(park, self.until) {
                Parked::Retry => {}
                Parked::TimedOut | Parked::Interrupted => return Err(Unavailable::Busy),
            }
        }
    }
}

/// A message whose parts are in a blob already.
pub(crate) struct Large {
    pub(crate) tag: u32,
    pub(crate) head: Vec<u8>,
    pub(crate) blob: Blob,
}

/// Where bytes are that somebody keeps in place.
#[derive(Clone, Copy)]
struct Source {
    start: *const u8,
    length: usize,
    is_read_only: bool,
    /// Where it was stored before.
    stored: Option<BlobName>,
}

// SAFETY: whoever makes one keeps what it points to in place until the copy is done.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

impl Source {
    fn of(bytes: &[u8]) -> Self {
        Self {
            start: bytes.as_ptr(),
            length: bytes.len(),
            is_read_only: true,
            stored: None,
        }
    }

    fn of_buffer(buffer: &PyUntypedBuffer) -> Self {
        Self {
            start: buffer.buf_ptr().cast_const().cast(),
            length: buffer.len_bytes(),
            is_read_only: buffer.readonly(),
            stored: None,
        }
    }
}

impl Large {
    /// One part: the text or bytes of an object that can't change.
    pub(crate) fn of_bytes(py: Python<'_>, place: Place, tag: u32, bytes: &[u8]) -> PyResult<Self> {
        Self::new(py, place, tag, 0, &[Source::of(bytes)], &[], &[])
    }

    /// One part: what a buffer shows now.
    pub(crate) fn of_buffer(
        py: Python<'_>,
        place: Place,
        tag: u32,
        buffer: &PyUntypedBuffer,
    ) -> PyResult<Self> {
        let sources = [Source::of_buffer(buffer)];
        Self::new(py, place, tag, 0, &sources, &[], &[])
    }

    /// A pickle, with the buffers that belong to it, and the objects that it names.
    pub(crate) fn of_pickle(
        py: Python<'_>,
        place: impl Into<Place>,
        pickled: &Pickled<'_>,
    ) -> PyResult<Self> {
        let (pickle, place) = (pickled.bytes(), place.into());
        let buffers = pickled.buffers.iter().map(Source::of_buffer);
        if pickle.len() < LARGE {
            let sources: Vec<Source> = buffers.collect();
            let passengers = &pickled.passengers;
            return Self::new(py, place, Pickled::TAG, 0, &sources, pickle, passengers);
        }
        let sources: Vec<Source> = [Source::of(pickle)].into_iter().chain(buffers).collect();
        Self::in_blob(py, place, &sources, pickled)
    }

    /// The first source is the pickle.
    fn in_blob(
        py: Python<'_>,
        place: Place,
        sources: &[Source],
        pickled: &Pickled<'_>,
    ) -> PyResult<Self> {
        let (tag, flags) = (Pickled::TAG, PICKLE_IS_PART);
        Self::new(py, place, tag, flags, sources, &[], &pickled.passengers)
    }

    /// As [`Large::of_pickle`], for more than one receiver: the pickle lies in the blob in any case,
    /// and no receiver may write to the buffers.
    pub(crate) fn of_shared_pickle(
        py: Python<'_>,
        storage: Storage,
        pickled: &Pickled<'_>,
    ) -> PyResult<Self> {
        let mut sources = vec![Source::of(pickled.bytes())];
        sources.extend(pickled.buffers.iter().map(|buffer| Source {
            is_read_only: true,
            ..Source::of_buffer(buffer)
        }));
        Self::in_blob(py, storage.into(), &sources, pickled)
    }

    /// As [`Large::of_pickle`], with names of the buffers that were stored before.
    pub(crate) fn of_pickle_in_parts(
        py: Python<'_>,
        storage: Storage,
        pickled: &Pickled<'_>,
        names: &[Option<BlobName>],
    ) -> PyResult<Self> {
        if names.iter().all(Option::is_none) {
            return Self::of_pickle(py, storage, pickled);
        }
        // There is a blob in any case, and something in it.
        let mut sources = vec![Source::of(pickled.bytes())];
        let buffers = pickled.buffers.iter().zip(names);
        sources.extend(buffers.map(|(buffer, &stored)| Source {
            stored,
            ..Source::of_buffer(buffer)
        }));
        Self::in_blob(py, storage.into(), &sources, pickled)
    }

    /// Stores what a buffer shows now, for messages to name.
    pub(crate) fn store(
        py: Python<'_>,
        storage: Storage,
        buffer: &PyUntypedBuffer,
    ) -> PyResult<Blob> {
        let sources = [Source::of_buffer(buffer)];
        Self::new(py, storage.into(), 0, 0, &sources, &[], &[]).map(|large| large.blob)
    }

    fn new(
        py: Python<'_>,
        place: Place,
        tag: u32,
        flags: u32,
        sources: &[Source],
        rest: &[u8],
        passengers: &[Passenger],
    ) -> PyResult<Self> {
        let too_large = || out_of_memory("a message; the queue is as it was");
        let family = place.storage.family().ok_or_else(too_large)?;
        let count = u32::try_from(sources.len()).map_err(|_| too_large())?;
        let most = FIXED + (8 + BlobName::LENGTH) * sources.len() + rest.len();
        let mut head = made::vector(most)?;
        head.extend(count.to_le_bytes());
        head.extend(flags.to_le_bytes());
        let mut total = 0_usize;
        for source in sources {
            let mark = if source.is_read_only { READ_ONLY } else { 0 };
            let place = if source.stored.is_some() {
                ELSEWHERE
            } else {
                0
            };
            head.extend((source.length as u64 | mark | place).to_le_bytes());
            if source.stored.is_some() {
                continue;
            }
            total = total
                .checked_next_multiple_of(ALIGNMENT)
                .and_then(|start| start.checked_add(source.length))
                .ok_or_else(too_large)?;
        }
        for name in sources.iter().filter_map(|source| source.stored) {
            head.extend(name.to_bytes());
        }
        head.extend(rest);
        let blob = wait(py, |park| {
            let mut blob = place.make_blob(park, family, total, passengers)?;
            let mut at = 0_usize;
            for source in sources.iter().filter(|source| source.stored.is_none()) {
                at = at.next_multiple_of(ALIGNMENT);
                // SAFETY: the caller keeps it in place. (That other threads write to a buffer
                // meanwhile is between them and us, as for any reader of buffers.)
                let bytes = unsafe { core::slice::from_raw_parts(source.start, source.length) };
                blob.write(at, bytes);
                at += source.length;
            }
            Ok(blob)
        })?;
        match blob {
            Ok(blob) => Ok(Self { tag, head, blob }),
            Err(Unavailable::OutOfMemory) => Err(too_large()),
            Err(Unavailable::Busy) => Err(FULL.bare(py)),
        }
    }
}

/// A part of a received message.
struct Part {
    /// The blob where it is; none: the message's own.
    name: Option<BlobName>,
    start: usize,
    length: usize,
    is_read_only: bool,
}

/// The memory that a view shows.
#[derive(Clone)]
enum Memory {
    Blob(Arc<Blob>),
    Copy(Arc<PrivateCopy>),
}

impl Memory {
    /// The memory of a part that others read as well.
    fn of_others(family: &'static Family, name: BlobName, part: &Part) -> PyResult<Self> {
        let blob = Blob::find(family, name).filter(|blob| part.length <= blob.capacity());
        let blob = blob.ok_or_else(|| {
            PyRuntimeError::new_err("a part of the message is gone: its call was abandoned")
        })?;
        if part.is_read_only {
            return Ok(Self::Blob(Arc::new(blob)));
        }
        PrivateCopy::of(blob)
            .map(|copy| Self::Copy(Arc::new(copy)))
            .ok_or_else(|| out_of_memory("a part of the message"))
    }

    fn as_ptr(&self) -> NonNull<u8> {
        match self {
            Self::Blob(blob) => blob.as_ptr(),
            Self::Copy(copy) => copy.as_ptr(),
        }
    }
}

/// A message that was taken, and its blob.
pub(crate) struct Received {
    parts: Vec<Part>,
    /// The pickle, if it isn't the first part.
    rest: Vec<u8>,
    pickle_is_part: bool,
    blob: Arc<Blob>,
}

impl Received {
    /// Reads a message's head; `None` if it doesn't fit the blob.
    pub(crate) fn new(head: &[u8], blob: Blob) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (count, flags) = (usize::try_from(word(0)?).ok()?, word(4)?);
        let rest_at = count.checked_mul(8)?.checked_add(FIXED)?;
        let (lengths, mut rest) = (head.get(FIXED..rest_at)?, head.get(rest_at..)?);
        let mut end = 0_usize;
        let mut parts = Vec::with_capacity(count);
        for marked in lengths.chunks_exact(8) {
            let marked = u64::from_le_bytes(marked.try_into().ok()?);
            let length = usize::try_from(marked & !(READ_ONLY | ELSEWHERE)).ok()?;
            let is_read_only = marked & READ_ONLY != 0;
            let (name, start) = if marked & ELSEWHERE == 0 {
                let start = end.checked_next_multiple_of(ALIGNMENT)?;
                end = start.checked_add(length)?;
                (None, start)
            } else {
                let name = BlobName::from_bytes(rest)?;
                rest = rest.get(BlobName::LENGTH..)?;
                (Some(name), 0)
            };
            parts.push(Part {
                name,
                start,
                length,
                is_read_only,
            });
        }
        (end <= blob.capacity()).then(|| Self {
            parts,
            rest: rest.to_vec(),
            pickle_is_part: flags & PICKLE_IS_PART != 0,
            blob: Arc::new(blob),
        })
    }

    /// The first part's bytes, if it lies in the message's own blob.
    fn bytes(&self) -> &[u8] {
        let Some(Part {
            name: None,
            start,
            length,
            ..
        }) = self.parts.first()
        else {
            return &[];
        };
        // SAFETY: `new` has checked that a part that lies in no other blob lies within this one.
        let start = unsafe { self.blob.as_ptr().add(*start) };
        // SAFETY: as above; the sender has written it all, the blob is ours alone, and nobody
        // has a view on it yet.
        unsafe { core::slice::from_raw_parts(start.as_ptr(), *length) }
    }

    pub(crate) fn to_text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        made::text(py, self.bytes())
    }

    pub(crate) fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        made::bytes(py, self.bytes()).map(Bound::into_any)
    }

    pub(crate) fn to_bytearray<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        made::bytearray(py, self.bytes())
    }

    /// The pickle, and views on the buffers that belong to it.
    pub(crate) fn to_pickle<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let mut views = made::vector(self.parts.len())?;
        for part in &self.parts {
            let memory = match part.name {
                None => Memory::Blob(Arc::clone(&self.blob)),
                Some(name) => Memory::of_others(self.blob.family(), name, part)?,
            };
            let view = View {
                memory,
                start: part.start,
                length: part.length,
                is_read_only: part.is_read_only,
            };
            views.push(Bound::new(py, view)?.into_any());
        }
        let pickle = if self.pickle_is_part && !views.is_empty() {
            views.remove(0)
        } else {
            made::bytes(py, &self.rest)?.into_any()
        };
        Ok((pickle, made::list(py, views)?))
    }
}

/// Memory of a message that was received without a copy: what its arrays are made of. It lives
/// as long as they do, whatever happens to the sender and the queue.
///
/// Users meet it where they have sent a bare `pickle.PickleBuffer`: it behaves like a memoryview
/// of its bytes, but can be pickled.
#[pyclass(module = "freethreading._native", name = "_View", frozen)]
pub(crate) struct View {
    memory: Memory,
    start: usize,
    length: usize,
    is_read_only: bool,
}

/// What a pickled view is made of again: the buffer that came with the pickle.
#[pyfunction]
pub(crate) fn received_buffer(buffer: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    buffer
}

#[pymethods]
impl View {
    fn __len__(&self) -> usize {
        self.length
    }

    fn __getitem__<'py>(
        this: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        PyMemoryView::from(this.as_any())?.get_item(key)
    }

    fn __setitem__(
        this: &Bound<'_, Self>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        PyMemoryView::from(this.as_any())?.set_item(key, value)
    }

    fn __richcmp__<'py>(
        this: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        op: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        PyMemoryView::from(this.as_any())?.rich_compare(other, op)
    }

    /// Whatever else a memoryview has.
    fn __getattr__<'py>(
        this: &Bound<'py, Self>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        PyMemoryView::from(this.as_any())?.getattr(name)
    }

    fn __reduce_ex__<'py>(
        this: &Bound<'py, Self>,
        protocol: i32,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyAny>,))> {
        static PICKLE_BUFFER: Imported = Imported::new("pickle", "PickleBuffer");
        static RECEIVED: Imported = Imported::new("freethreading._native", "received_buffer");
        let py = this.py();
        let part = if protocol >= 5 {
            PICKLE_BUFFER.get(py)?.call1((this,))?
        } else if this.get().is_read_only {
            PyBytes::type_object(py).call1((this,))?
        } else {
            PyByteArray::from(this.as_any())?.into_any()
        };
        Ok((RECEIVED.get(py)?.clone(), (part,)))
    }

    unsafe fn __getbuffer__(
        this: &Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("there is no place for the view"));
        }
        let it = this.get();
        // SAFETY: `Received::new` or `Memory::of_others` has checked that the part lies within.
        let start = unsafe { it.memory.as_ptr().add(it.start) };
        let length = ffi::Py_ssize_t::try_from(it.length)?;
        let read_only = c_int::from(it.is_read_only);
        let owner = this.as_ptr();
        // SAFETY: the memory stays where it is as long as `owner`, of which the view holds a
        // reference, keeps it.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, owner, start.as_ptr().cast(), length, read_only, flags)
        };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(this.py()))
        }
    }
}
