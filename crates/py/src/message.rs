// SPDX-License-Identifier: MIT
//! Messages: how a Python object lies in a queue.
//!
//! In private memory a message is a reference, so nothing is copied. In shared memory small
//! scalars, text and bytes are encoded here, all else by pickle, before the queue is touched.

#![expect(
    unsafe_code,
    reason = "a reference lies in a private queue as its address"
)]

use core::cell::{Cell, RefCell};
use std::sync::{Mutex, PoisonError};

use freethreading_core::queue;
use freethreading_core::storage::{Blob, OutOfMemory, Passenger, Storage};
use pyo3::PyTypeInfo;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyString};

use crate::boarding::while_boarding;
use crate::encoding;
use crate::imported::Imported;
use crate::large::{LARGE, Large, Place, Received, View};
use crate::made;

pub(crate) mod quick;

static DUMPS: Imported = Imported::new("pickle", "dumps");
static DISPATCH_TABLE: Imported = Imported::new("freethreading._picklable", "dispatch_table");
static PICKLER: Imported = Imported::new("pickle", "Pickler");
static BYTES_IO: Imported = Imported::new("io", "BytesIO");
static LOADS: Imported = Imported::new("pickle", "loads");

/// Imports what messages need, when a queue is made. A thread that imports it when it first
/// puts might be in the middle of that when another thread forks, and the child would wait for
/// ever for that import. Classes are made as well: where there is no memory for them PyO3 panics.
pub(crate) fn prepare(py: Python<'_>, storage: Storage) -> PyResult<()> {
    if storage.family().is_some() {
        for it in [&DUMPS, &LOADS, &DISPATCH_TABLE, &PICKLER, &BYTES_IO] {
            it.get(py)?;
        }
        Collector::type_object(py);
        View::type_object(py);
    }
    Ok(())
}

/// What the bytes of a message are. Part of the shared memory's format.
mod tag {
    pub(super) const NONE: u32 = 0;
    pub(super) const FALSE: u32 = 1;
    pub(super) const TRUE: u32 = 2;
    pub(super) const INT: u32 = 3;
    pub(super) const FLOAT: u32 = 4;
    pub(super) const STR: u32 = 5;
    pub(super) const BYTES: u32 = 6;
    pub(super) const PICKLE: u32 = 7;
    /// Eight bytes: the address of an object to which the message holds a reference.
    pub(super) const REFERENCE: u32 = 8;
    pub(super) const BYTEARRAY: u32 = 9;
    pub(super) const CONTAINER: u32 = 10;
}

/// Marks on a tag: the message begins with a [`FRAME`]; nobody wants what it says any more.
pub(crate) const FRAMED: u32 = 1 << 8;
pub(crate) const CANCELLED: u32 = 1 << 9;
/// Bytes of a frame, which a pool's messages begin with.
pub(crate) const FRAME: usize = 16;

/// An object on its way into a queue.
pub(crate) enum Outgoing<'py> {
    Scalar {
        tag: u32,
        bytes: [u8; 8],
        length: usize,
    },
    Text(Bound<'py, PyString>),
    Bytes {
        tag: u32,
        bytes: Bound<'py, PyBytes>,
    },
    Container(Vec<u8>),
    Large(Large),
    Reference(Bound<'py, PyAny>),
}

impl<'py> Outgoing<'py> {
    /// Encodes `item` for a queue in a storage; raises what pickling raises, and queue.Full if what is
    /// large isn't stored in time.
    pub(crate) fn new(place: impl Into<Place>, item: Bound<'py, PyAny>) -> PyResult<Self> {
        let place = place.into();
        Self::with_large(place, item, |py, pickled| {
            Large::of_pickle(py, place, &pickled)
        })
    }

    /// As [`Outgoing::new`]; a pickle that is large, or has something with it, becomes what
    /// `large` makes of it.
    pub(crate) fn with_large(
        place: impl Into<Place>,
        item: Bound<'py, PyAny>,
        large: impl FnOnce(Python<'py>, Pickled<'py>) -> PyResult<Large>,
    ) -> PyResult<Self> {
        let place = place.into();
        if place.storage().family().is_none() {
            return Ok(Self::Reference(item));
        }
        let py = item.py();
        if item.is_none() {
            return Ok(Self::scalar(tag::NONE, &[]));
        }
        if let Ok(value) = item.cast_exact::<PyBool>() {
            return Ok(Self::scalar(
                if value.is_true() {
                    tag::TRUE
                } else {
                    tag::FALSE
                },
                &[],
            ));
        }
        if let Ok(value) = item.cast_exact::<PyInt>() {
            if let Ok(value) = value.extract::<i64>() {
                return Ok(Self::scalar(tag::INT, &value.to_le_bytes()));
            }
        } else if let Ok(value) = item.cast_exact::<PyFloat>() {
            return Ok(Self::scalar(tag::FLOAT, &value.value().to_le_bytes()));
        } else if let Ok(value) = item.cast_exact::<PyBytes>() {
            let tag = tag::BYTES;
            if value.as_bytes().len() >= LARGE {
                return Large::of_bytes(py, place, tag, value.as_bytes()).map(Self::Large);
            }
            let bytes = value.clone();
            return Ok(Self::Bytes { tag, bytes });
        } else if let Ok(value) = item.cast_exact::<PyString>() {
            // Not with lone surrogates.
            if let Ok(text) = value.to_str() {
                if text.len() >= LARGE {
                    let text = text.as_bytes();
                    return Large::of_bytes(py, place, tag::STR, text).map(Self::Large);
                }
                return Ok(Self::Text(value.clone()));
            }
        } else if let Ok(value) = item.cast_exact::<PyByteArray>() {
            if value.len() >= LARGE {
                let buffer = PyUntypedBuffer::get(value)?;
                return Large::of_buffer(py, place, tag::BYTEARRAY, &buffer).map(Self::Large);
            }
        }
        if let Some(encoded) = encoding::encode(&item) {
            return Ok(Self::Container(encoded));
        }
        let pickled = pickle(py, place.storage(), &item)?;
        if pickled.is_alone() && pickled.bytes().len() < LARGE {
            return Ok(pickled.into_bytes());
        }
        large(py, pickled).map(Self::Large)
    }

    /// A pickle that many will read: one longer than `longest`, or with something with it, lies in a
    /// blob, and nobody may write to what is made of that.
    pub(crate) fn pickled_shared(
        py: Python<'py>,
        storage: Storage,
        item: &Bound<'py, PyAny>,
        longest: usize,
    ) -> PyResult<Self> {
        let pickled = pickle(py, storage, item)?;
        if pickled.is_alone() && pickled.bytes().len() <= longest {
            return Ok(pickled.into_bytes());
        }
        Large::of_shared_pickle(py, storage, &pickled).map(Self::Large)
    }

    fn scalar(tag: u32, value: &[u8]) -> Self {
        let mut bytes = [0; 8];
        bytes[..value.len()].copy_from_slice(value);
        Self::Scalar {
            tag,
            bytes,
            length: value.len(),
        }
    }

    /// Calls `put` with the message's tag and bytes. If `put` says that they are in the queue,
    /// a reference belongs to the queue from then on.
    pub(crate) fn put_with<R>(
        &self,
        put: impl FnOnce(u32, &[u8]) -> R,
        is_in_queue: impl FnOnce(&R) -> bool,
    ) -> R {
        match self {
            Self::Scalar { tag, bytes, length } => put(*tag, &bytes[..*length]),
            // Checked in `new`.
            Self::Text(text) => put(tag::STR, text.to_str().unwrap_or_default().as_bytes()),
            Self::Bytes { tag, bytes } => put(*tag, bytes.as_bytes()),
            Self::Container(encoded) => put(tag::CONTAINER, encoded),
            // Put along with its blob, by who knows how to.
            Self::Large(large) => put(large.tag, &large.head),
            Self::Reference(item) => {
                // The queue's reference is counted before anybody can take it out.
                let queued = item.clone().unbind();
                let address = (queued.as_ptr().expose_provenance() as u64).to_ne_bytes();
                let result = put(tag::REFERENCE, &address);
                if is_in_queue(&result) {
                    let _ = queued.into_ptr();
                }
                result
            }
        }
    }
}

/// Gets the buffers that `pickle` meets, and keeps the large ones out of the pickle.
#[pyclass(frozen)]
struct Collector(Mutex<Vec<PyUntypedBuffer>>);

impl Collector {
    fn take(&self) -> Vec<PyUntypedBuffer> {
        core::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl Collector {
    /// Whether the buffer belongs into the pickle.
    fn __call__(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        let shown = PyUntypedBuffer::get(buffer)?;
        let is_large = shown.len_bytes() >= LARGE && shown.is_c_contiguous();
        if is_large {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(shown);
        }
        Ok(!is_large)
    }
}

/// A pickle, and what goes with it.
pub(crate) struct Pickled<'py> {
    bytes: Bound<'py, PyBytes>,
    /// Large ones, left out of the pickle.
    pub(crate) buffers: Vec<PyUntypedBuffer>,
    /// Objects that the pickle names, and whoever gets it is to find.
    pub(crate) passengers: Vec<Passenger>,
}

impl<'py> Pickled<'py> {
    pub(crate) const TAG: u32 = tag::PICKLE;

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_bytes()
    }

    fn is_alone(&self) -> bool {
        self.buffers.is_empty() && self.passengers.is_empty()
    }

    fn into_bytes(self) -> Outgoing<'py> {
        Outgoing::Bytes {
            tag: Self::TAG,
            bytes: self.bytes,
        }
    }
}

/// Tries `pickle` first: it is fast. What pickle can't pickle is left to multiprocessing's pickler;
/// what it can, but wrongly for another process (connections), is in the dispatch table.
fn pickle<'py>(
    py: Python<'py>,
    storage: Storage,
    item: &Bound<'py, PyAny>,
) -> PyResult<Pickled<'py>> {
    static DUMPS_FOR_PROCESS: Imported =
        Imported::new("freethreading._picklable", "dumps_for_process");
    const PROTOCOL: u32 = 5;
    let collector = Bound::new(py, Collector(Mutex::default()))?;
    let keywords = made::dict(py)?;
    keywords.set_item(intern!(py, "buffer_callback"), &collector)?;
    let dump = || -> PyResult<Bound<'py, PyAny>> {
        let table = DISPATCH_TABLE.get(py)?.call0()?;
        if table.is_none() {
            return DUMPS.get(py)?.call((item, PROTOCOL), Some(&keywords));
        }
        let file = BYTES_IO.get(py)?.call0()?;
        let pickler = PICKLER.get(py)?.call((&file, PROTOCOL), Some(&keywords))?;
        pickler.setattr(intern!(py, "dispatch_table"), table)?;
        pickler.call_method1(intern!(py, "dump"), (item,))?;
        file.call_method0(intern!(py, "getvalue"))
    };
    let dump = || match dump() {
        Ok(bytes) => Ok(bytes),
        Err(error) => {
            // What was collected belongs to the pickle that failed.
            collector.get().take();
            DUMPS_FOR_PROCESS.get(py)?.call1((item, error, true))
        }
    };
    let (bytes, passengers) = while_boarding(py, storage, dump);
    Ok(Pickled {
        bytes: bytes?.cast_into()?,
        buffers: collector.get().take(),
        passengers,
    })
}

/// A message copied out of a queue.
pub(crate) enum Incoming {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Vec<u8>),
    Bytes(Vec<u8>),
    Container(Vec<u8>),
    /// Only in blobs.
    Bytearray(Vec<u8>),
    Pickle(Vec<u8>),
    Reference(u64),
    Malformed,
}

impl Incoming {
    /// Copies a message; runs under a queue's mutex, so it touches nothing of Python's. Without
    /// memory for it, it ends the process.
    #[inline]
    pub(crate) fn read(tag: u32, message: &[u8]) -> Self {
        Self::read_with(tag, message, |message| Some(message.to_vec())).unwrap_or(Self::Malformed)
    }

    /// As [`Incoming::read`], if there is memory.
    #[inline]
    pub(crate) fn read_if(tag: u32, message: &[u8]) -> Result<Self, OutOfMemory> {
        Self::read_with(tag, message, made::copy).ok_or(OutOfMemory)
    }

    #[inline]
    fn read_with(
        tag: u32,
        message: &[u8],
        copy: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let word = || message.try_into().ok();
        Some(match tag {
            tag::NONE => Self::None,
            tag::FALSE => Self::Bool(false),
            tag::TRUE => Self::Bool(true),
            tag::INT => word().map_or(Self::Malformed, |word| Self::Int(i64::from_le_bytes(word))),
            tag::FLOAT => word().map_or(Self::Malformed, |word| {
                Self::Float(f64::from_le_bytes(word))
            }),
            tag::STR => Self::Text(copy(message)?),
            tag::BYTES => Self::Bytes(copy(message)?),
            tag::CONTAINER => Self::Container(copy(message)?),
            tag::BYTEARRAY => Self::Bytearray(copy(message)?),
            tag::PICKLE => Self::Pickle(copy(message)?),
            tag::REFERENCE => word().map_or(Self::Malformed, |word| {
                Self::Reference(u64::from_ne_bytes(word))
            }),
            _ => Self::Malformed,
        })
    }

    /// As [`Incoming::read`], of a message that may have a frame, which is left out.
    pub(crate) fn read_any(tag: u32, message: &[u8]) -> Self {
        let frame = if tag & FRAMED == 0 { 0 } else { FRAME };
        message.get(frame..).map_or(Self::Malformed, |rest| {
            Self::read(tag & !(FRAMED | CANCELLED), rest)
        })
    }

    /// The object, if the message came with a blob: this is its head.
    fn into_large_object(self, py: Python<'_>, blob: Blob) -> PyResult<Bound<'_, PyAny>> {
        let (Self::Text(head) | Self::Bytes(head) | Self::Bytearray(head) | Self::Pickle(head)) =
            &self
        else {
            return Err(malformed());
        };
        let received = Received::new(head, blob).ok_or_else(malformed)?;
        match self {
            Self::Text(_) => received.to_text(py),
            Self::Bytes(_) => received.to_bytes(py),
            Self::Bytearray(_) => received.to_bytearray(py),
            _ => unpickled(py, &received),
        }
    }

    /// As [`Incoming::into_object`]; a Ctrl-C in the middle of unpickling goes to `interrupt`, and
    /// it begins again.
    pub(crate) fn into_object_in_spite<'py>(
        self,
        py: Python<'py>,
        storage: Storage,
        blob: Option<Blob>,
        interrupt: &mut Option<PyErr>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match (self, blob) {
            (Self::Pickle(pickled), None) => {
                let pickled = made::bytes(py, &pickled)?;
                in_spite(py, interrupt, || LOADS.get(py)?.call1((&pickled,)))
            }
            (Self::Pickle(head), Some(blob)) => {
                let received = Received::new(&head, blob).ok_or_else(malformed)?;
                in_spite(py, interrupt, || unpickled(py, &received))
            }
            (other, blob) => other.into_object(py, storage, blob),
        }
    }

    /// The object. Raises what unpickling raises; the message is taken all the same.
    pub(crate) fn into_object(
        self,
        py: Python<'_>,
        storage: Storage,
        blob: Option<Blob>,
    ) -> PyResult<Bound<'_, PyAny>> {
        if let Some(blob) = blob {
            return self.into_large_object(py, blob);
        }
        Ok(match self {
            Self::None => py.None().into_bound(py),
            Self::Bool(value) => PyBool::new(py, value).to_owned().into_any(),
            Self::Int(value) => made::int(py, value)?,
            Self::Float(value) => made::float(py, value)?,
            Self::Text(text) => made::text(py, &text)?,
            Self::Bytes(bytes) => made::bytes(py, &bytes)?.into_any(),
            Self::Container(encoded) => encoding::decode(py, &encoded)?.ok_or_else(malformed)?,
            Self::Pickle(pickled) => {
                let pickled = made::bytes(py, &pickled)?;
                LOADS.get(py)?.call1((pickled,))?
            }
            Self::Reference(address) if storage.family().is_none() => own(py, address),
            Self::Reference(_) | Self::Bytearray(_) | Self::Malformed => return Err(malformed()),
        })
    }
}

/// Does something for somebody else, in the main thread perhaps: a Ctrl-C in the middle of it is
/// the caller's, goes to `interrupt`, and it is done again.
pub(crate) fn in_spite<R>(
    py: Python<'_>,
    interrupt: &mut Option<PyErr>,
    action: impl Fn() -> PyResult<R>,
) -> PyResult<R> {
    match action() {
        Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {
            *interrupt = Some(error);
            action()
        }
        result => result,
    }
}

fn unpickled<'py>(py: Python<'py>, received: &Received) -> PyResult<Bound<'py, PyAny>> {
    let (pickle, views) = received.to_pickle(py)?;
    let keywords = made::dict(py)?;
    keywords.set_item(intern!(py, "buffers"), views)?;
    LOADS.get(py)?.call((pickle,), Some(&keywords))
}

fn malformed() -> PyErr {
    PyRuntimeError::new_err("the queue's shared memory was overwritten: a message is malformed")
}

/// The object whose reference lay in a private queue as `address`.
fn own(py: Python<'_>, address: u64) -> Bound<'_, PyAny> {
    // SAFETY: private queues get their references from `put_with` alone, which gave one away;
    // each message is taken once, so this is the one time that it is taken back.
    unsafe { Bound::from_owned_ptr(py, pointer(address)) }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "an address of this process"
)]
fn pointer(address: u64) -> *mut ffi::PyObject {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// What a message of a private queue refers to, framed or not.
fn reference(tag: u32, message: &[u8]) -> Option<u64> {
    match Incoming::read_any(tag, message) {
        Incoming::Reference(address) => Some(address),
        _ => None,
    }
}

/// Calls `visit` with the object of a message that stays in its queue.
pub(crate) fn visit_reference(tag: u32, message: &[u8], visit: impl FnOnce(&Py<PyAny>)) {
    let Some(address) = reference(tag, message) else {
        return;
    };
    let Some(object) = core::ptr::NonNull::new(pointer(address)) else {
        return;
    };
    // SAFETY: Py is a transparent wrapper of a NonNull<PyObject>, and no count is touched: the
    // message keeps its reference while its queue is locked, which is as long as this one is
    // used. (A garbage collector's visit must not attach, so Py can't be made in the usual way.)
    let object: &Py<PyAny> = unsafe { &*core::ptr::from_ref(&object).cast() };
    visit(object);
}

thread_local! {
    /// References of queues that are being freed, dropped when no queue is locked any more.
    static DROPPED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    /// Whether that is being done.
    static IS_DROPPING: Cell<bool> = const { Cell::new(false) };
}

/// Tells the core what becomes of messages in queues that are freed.
pub(crate) fn initialize() {
    queue::set_disposer(|tag, message| {
        if let Some(address) = reference(tag, message) {
            DROPPED.with_borrow_mut(|dropped| dropped.push(address));
        }
    });
}

/// Drops the references that freed queues have left behind in this thread. Those may be queues
/// again, of which nothing is dropped in here: else a long chain of them would fill the stack.
pub(crate) fn drop_disposed(py: Python<'_>) {
    if IS_DROPPING.replace(true) {
        return;
    }
    loop {
        let dropped = DROPPED.take();
        if dropped.is_empty() {
            break;
        }
        for address in dropped {
            drop(own(py, address));
        }
    }
    IS_DROPPING.set(false);
}
