// SPDX-License-Identifier: MIT
//! Small tuples, lists and dicts of scalars, text and bytes, encoded without pickle, which takes
//! longer to get ready for them than they take.
//!
//! ```text
//!   container:  | its mark | count: 1 byte | element | element | ...      a dict's: key, value, ...
//!   other:      | its mark | nothing, 8 bytes, or a length of 4 bytes and so many bytes
//! ```
//!
//! What doesn't fit makes the whole pickle's: subclasses, large integers, lone surrogates, much
//! of anything, what there is no memory for, and a list or dict that is met twice, for it must be
//! one object afterwards, too.
//! What is decoded came from another process and is checked.

use core::cell::RefCell;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::made;

mod mark {
    pub(super) const NONE: u8 = 0;
    pub(super) const FALSE: u8 = 1;
    pub(super) const TRUE: u8 = 2;
    pub(super) const INT: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const STR: u8 = 5;
    pub(super) const BYTES: u8 = 6;
    pub(super) const TUPLE: u8 = 7;
    pub(super) const LIST: u8 = 8;
    pub(super) const DICT: u8 = 9;
}

/// Elements of a container; containers in containers; bytes of a text; bytes in all.
const MOST_ELEMENTS: usize = 64;
const DEEPEST: u32 = 4;
const LONGEST: usize = 1024;
const MOST_BYTES: usize = 4096;
/// Bytes of an encoded scalar, and of what comes before a text's bytes.
const LONGEST_SCALAR: usize = 9;
const HEADER: usize = 5;

/// The encoding of a container; `None` for what isn't one, or not one that we encode.
pub(crate) fn encode(container: &Bound<'_, PyAny>) -> Option<Vec<u8>> {
    let mut encoder = Encoder {
        out: Vec::new(),
        seen: Vec::new(),
    };
    encoder.out.try_reserve_exact(64).ok()?;
    encoder.container(container, DEEPEST)?;
    Some(encoder.out)
}

struct Encoder {
    out: Vec<u8>,
    /// Where the lists and dicts are that were met.
    seen: Vec<usize>,
}

impl Encoder {
    fn container(&mut self, container: &Bound<'_, PyAny>, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        if let Ok(tuple) = container.cast_exact::<PyTuple>() {
            self.begin(mark::TUPLE, tuple.len())?;
            return tuple
                .iter_borrowed()
                .try_for_each(|element| self.element(&element, depth));
        }
        let address = container.as_ptr().addr();
        if self.seen.contains(&address) {
            return None;
        }
        self.seen.try_reserve(1).ok()?;
        self.seen.push(address);
        if let Ok(dict) = container.cast_exact::<PyDict>() {
            self.dict(dict, depth)
        } else {
            self.list(container.cast_exact::<PyList>().ok()?, depth)
        }
    }

    fn list(&mut self, list: &Bound<'_, PyList>, depth: u32) -> Option<()> {
        let count = list.len();
        self.begin(mark::LIST, count)?;
        let mut encoded = 0;
        for element in list {
            self.element(&element, depth)?;
            encoded += 1;
        }
        // Another thread may have changed it meanwhile.
        (encoded == count).then_some(())
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, depth: u32) -> Option<()> {
        if dict.len() > MOST_ELEMENTS {
            return None;
        }
        let pairs = RefCell::new(made::vector(dict.len()).ok()?);
        // All at once, and locked, for PyO3 panics at a dict that changes under its iterator. To
        // lock an element meanwhile, a dict or a text, could mean to wait, which opens the lock.
        let walked = dict.locked_for_each(|key, value| {
            pairs.borrow_mut().push((key, value));
            Ok(())
        });
        walked.ok()?;
        let pairs = pairs.into_inner();
        self.begin(mark::DICT, pairs.len())?;
        pairs.iter().try_for_each(|(key, value)| {
            self.element(key, depth)?;
            self.element(value, depth)
        })
    }

    fn begin(&mut self, mark: u8, count: usize) -> Option<()> {
        if count > MOST_ELEMENTS {
            return None;
        }
        self.out.try_reserve(2).ok()?;
        self.out.push(mark);
        self.out.push(u8::try_from(count).ok()?);
        Some(())
    }

    fn element(&mut self, element: &Bound<'_, PyAny>, depth: u32) -> Option<()> {
        self.out.try_reserve(LONGEST_SCALAR).ok()?;
        if element.is_none() {
            self.out.push(mark::NONE);
        } else if let Ok(value) = element.cast_exact::<PyInt>() {
            self.out.push(mark::INT);
            self.out.extend(value.extract::<i64>().ok()?.to_le_bytes());
        } else if let Ok(value) = element.cast_exact::<PyString>() {
            self.bytes(mark::STR, value.to_str().ok()?.as_bytes())?;
        } else if let Ok(value) = element.cast_exact::<PyFloat>() {
            self.out.push(mark::FLOAT);
            self.out.extend(value.value().to_le_bytes());
        } else if let Ok(value) = element.cast_exact::<PyBool>() {
            let mark = if value.is_true() {
                mark::TRUE
            } else {
                mark::FALSE
            };
            self.out.push(mark);
        } else if let Ok(value) = element.cast_exact::<PyBytes>() {
            self.bytes(mark::BYTES, value.as_bytes())?;
        } else {
            self.container(element, depth)?;
        }
        (self.out.len() <= MOST_BYTES).then_some(())
    }

    fn bytes(&mut self, mark: u8, bytes: &[u8]) -> Option<()> {
        if bytes.len() > LONGEST {
            return None;
        }
        self.out.try_reserve(HEADER + bytes.len()).ok()?;
        self.out.push(mark);
        self.out
            .extend(u32::try_from(bytes.len()).ok()?.to_le_bytes());
        self.out.extend(bytes);
        Some(())
    }
}

/// The container of an encoding; `None` if it is malformed.
pub(crate) fn decode<'py>(py: Python<'py>, encoded: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut rest = Rest(encoded);
    let container = rest.element(py, DEEPEST)?;
    Ok(container.filter(|_| rest.0.is_empty()))
}

/// What isn't decoded yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn word(&mut self) -> Option<[u8; 8]> {
        self.take(8)?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(length).ok()?)
    }

    fn element<'py>(&mut self, py: Python<'py>, depth: u32) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(match self.byte() {
            Some(mark::NONE) => Some(py.None().into_bound(py)),
            Some(mark::FALSE) => Some(PyBool::new(py, false).to_owned().into_any()),
            Some(mark::TRUE) => Some(PyBool::new(py, true).to_owned().into_any()),
            Some(mark::INT) => {
                let word = self.word();
                word.map(|word| made::int(py, i64::from_le_bytes(word)))
                    .transpose()?
            }
            Some(mark::FLOAT) => {
                let word = self.word();
                word.map(|word| made::float(py, f64::from_le_bytes(word)))
                    .transpose()?
            }
            Some(mark::STR) => {
                let text = self.bytes();
                text.filter(|text| core::str::from_utf8(text).is_ok())
                    .map(|text| made::text(py, text))
                    .transpose()?
            }
            Some(mark::BYTES) => {
                let bytes = self.bytes();
                let bytes = bytes.map(|bytes| made::bytes(py, bytes)).transpose()?;
                bytes.map(Bound::into_any)
            }
            Some(mark::TUPLE) => {
                let elements = self.elements(py, depth, 1)?;
                elements.map(|it| made::tuple(py, it)).transpose()?
            }
            Some(mark::LIST) => {
                let elements = self.elements(py, depth, 1)?;
                elements.map(|it| made::list(py, it)).transpose()?
            }
            Some(mark::DICT) => {
                let elements = self.elements(py, depth, 2)?;
                elements.map(|it| dict(py, &it)).transpose()?
            }
            _ => None,
        })
    }

    /// The elements of a container; `each` of them make one of those that were counted.
    fn elements<'py>(
        &mut self,
        py: Python<'py>,
        depth: u32,
        each: usize,
    ) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
        let (Some(count), Some(depth)) = (self.byte(), depth.checked_sub(1)) else {
            return Ok(None);
        };
        let count = usize::from(count) * each;
        let mut elements = made::vector(count)?;
        for _ in 0..count {
            match self.element(py, depth)? {
                Some(element) => elements.push(element),
                None => return Ok(None),
            }
        }
        Ok(Some(elements))
    }
}

fn dict<'py>(py: Python<'py>, elements: &[Bound<'py, PyAny>]) -> PyResult<Bound<'py, PyAny>> {
    let dict = made::dict(py)?;
    for pair in elements.chunks_exact(2) {
        dict.set_item(&pair[0], &pair[1])?;
    }
    Ok(dict.into_any())
}
