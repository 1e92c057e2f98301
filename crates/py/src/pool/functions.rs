// SPDX-License-Identifier: MIT
//! The functions that tasks call: pickled once, and unpickled once in each worker.
//!
//! A function that is imported by its name has no state; its pickle is kept from call to call, and
//! workers keep what they made of it. Anything else that can be called may have a state: it is
//! pickled for each job, and a worker keeps it for that job only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use freethreading_core::family::Family;
use freethreading_core::storage::{Blob, BlobName, Storage};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyFunction, PyType};

use crate::message::{Incoming, Outgoing};
use crate::picklable::{check_picklable, is_importable};

/// So many are kept; then all are forgotten. More functions than this have few calls each.
const MOST: usize = 256;
/// A longer pickle isn't sent with each task, but lies in a blob of its own.
const LONGEST: usize = 1024;

/// How a function begins on the wire.
const PICKLE: u8 = 1;
const BLOB: u8 = 2;

/// A function as it is sent with each task.
#[derive(Clone)]
pub(super) struct Sent {
    /// Empty between threads.
    pub(super) bytes: Arc<[u8]>,
    pub(super) is_own: bool,
    /// Where it lies, if it is large; kept for as long as tasks name it.
    _blob: Option<Arc<Blob>>,
}

/// The functions that were sent before, by their addresses; each is kept alive.
#[derive(Default)]
pub(super) struct Functions(Mutex<Known>);

type Known = HashMap<usize, (Py<PyAny>, Arc<[u8]>)>;

impl Functions {
    /// A function that was sent before, and has no state.
    pub(super) fn known(&self, function: &Bound<'_, PyAny>) -> Option<Sent> {
        let address = function.as_ptr().addr();
        let bytes = self.locked(|functions| functions.get(&address).map(|it| Arc::clone(&it.1)))?;
        Some(Sent {
            bytes,
            is_own: false,
            _blob: None,
        })
    }

    /// Prepares a function; `ValueError`, naming `owner`, if it can't be pickled.
    pub(super) fn prepare(
        &self,
        storage: Storage,
        owner: &str,
        function: &Bound<'_, PyAny>,
    ) -> PyResult<Sent> {
        if let Some(sent) = self.prepare_named(storage, owner, function)? {
            return Ok(sent);
        }
        let (bytes, blob) = pickled(storage, owner, function)?;
        Ok(Sent {
            bytes: bytes.into(),
            is_own: true,
            _blob: blob.map(Arc::new),
        })
    }

    /// Prepares a function that is imported by its name; `None` if it is no such function.
    pub(super) fn prepare_named(
        &self,
        storage: Storage,
        owner: &str,
        function: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Sent>> {
        if let Some(sent) = self.known(function) {
            return Ok(Some(sent));
        }
        let may_be_named = function.is_exact_instance_of::<PyFunction>()
            || function.is_exact_instance_of::<PyCFunction>()
            || function.is_exact_instance_of::<PyType>();
        if !may_be_named || !is_importable(function).unwrap_or(false) {
            return Ok(None);
        }
        let (bytes, blob) = pickled(storage, owner, function)?;
        // The path of a name that fills a blob isn't worth keeping.
        if blob.is_some() {
            return Ok(None);
        }
        let bytes: Arc<[u8]> = bytes.into();
        let kept = (function.clone().unbind(), Arc::clone(&bytes));
        // What is forgotten is dropped when the lock is free again.
        let _forgotten = self.locked(|functions| {
            let forgotten = if functions.len() >= MOST {
                core::mem::take(functions)
            } else {
                HashMap::new()
            };
            (functions.insert(function.as_ptr().addr(), kept), forgotten)
        });
        Ok(Some(Sent {
            bytes,
            is_own: false,
            _blob: None,
        }))
    }

    fn locked<R>(&self, action: impl FnOnce(&mut Known) -> R) -> R {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sent {
    /// For a call that has its function in its payload.
    pub(super) fn nothing() -> Self {
        Self {
            bytes: [].into(),
            is_own: false,
            _blob: None,
        }
    }
}

/// What the function is called among the parameters of a call.
pub(super) fn parameter(owner: &str) -> &'static str {
    // As in the standard library's pools and executors.
    if owner.starts_with("WorkerPoolExecutor") {
        "fn"
    } else {
        "func"
    }
}

/// A function as it lies in a message, and the blob that it names. Empty between threads.
fn pickled(
    storage: Storage,
    owner: &str,
    function: &Bound<'_, PyAny>,
) -> PyResult<(Vec<u8>, Option<Blob>)> {
    let check = || check_picklable(owner, parameter(owner), function, false);
    if storage.family().is_none() {
        return check().map(|()| (Vec::new(), None));
    }
    let outgoing = Outgoing::pickled_shared(function.py(), storage, function, LONGEST)
        // It names the part, and has the exception of pickling for its cause.
        .map_err(|error| check().err().unwrap_or(error))?;
    match outgoing {
        Outgoing::Bytes { bytes, .. } => {
            let pickle = bytes.as_bytes();
            let mut field = Vec::with_capacity(1 + pickle.len());
            field.push(PICKLE);
            field.extend(pickle);
            Ok((field, None))
        }
        Outgoing::Large(large) => {
            let mut field = vec![BLOB];
            field.extend(large.blob.name().to_bytes());
            field.extend(&large.head);
            Ok((field, Some(large.blob)))
        }
        _ => unreachable!("a pickle is bytes, or large"),
    }
}

/// The functions that a worker has made of what was sent.
#[derive(Default)]
pub(super) struct Made {
    functions: HashMap<Vec<u8>, Py<PyAny>>,
    /// What the last one was made of.
    bytes: Vec<u8>,
    function: Option<Py<PyAny>>,
    /// The job whose own it is.
    job: Option<u32>,
}

impl Made {
    /// What the last function was made of.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The last function, for a task of this job.
    pub(super) fn known<'py>(
        &mut self,
        py: Python<'py>,
        storage: Storage,
        job: Option<u32>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &self.function {
            Some(function) if self.job == job => Ok(function.bind(py).clone()),
            _ => {
                let bytes = core::mem::take(&mut self.bytes);
                self.make(py, storage, bytes, job)
            }
        }
    }

    /// The function of these bytes, which is `job`'s own, or anybody's.
    pub(super) fn make<'py>(
        &mut self,
        py: Python<'py>,
        storage: Storage,
        bytes: Vec<u8>,
        job: Option<u32>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // What the last job's function held is free from here on.
        self.forget();
        let found = job
            .is_none()
            .then(|| self.functions.get(&bytes))
            .flatten()
            .map(|function| function.clone_ref(py));
        let function = match found {
            Some(function) => function,
            None => unpickled(py, storage, &bytes)?.unbind(),
        };
        if job.is_none() {
            if self.functions.len() >= MOST {
                self.functions.clear();
            }
            self.functions.insert(bytes.clone(), function.clone_ref(py));
        }
        let result = function.bind(py).clone();
        (self.bytes, self.function, self.job) = (bytes, Some(function), job);
        Ok(result)
    }

    /// Keeps nothing that is a job's own.
    fn forget(&mut self) {
        self.bytes.clear();
        self.function = None;
        self.job = None;
    }
}

fn unpickled<'py>(py: Python<'py>, storage: Storage, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match bytes.split_first() {
        Some((&PICKLE, pickle)) => Incoming::Pickle(pickle.to_vec()).into_object(py, storage, None),
        Some((&BLOB, rest)) => {
            let find = |family: &'static Family| Blob::find(family, BlobName::from_bytes(rest)?);
            let head = rest.get(BlobName::LENGTH..).unwrap_or_default().to_vec();
            let blob = storage.family().and_then(find);
            let blob = blob.ok_or_else(|| {
                PyRuntimeError::new_err("the task's function is gone: its call was abandoned")
            })?;
            Incoming::Pickle(head).into_object(py, storage, Some(blob))
        }
        _ => Err(PyRuntimeError::new_err("a task came without a function")),
    }
}
