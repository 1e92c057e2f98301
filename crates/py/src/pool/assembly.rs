// SPDX-License-Identifier: MIT
//! From the outcomes of a job's tasks to its result.

use pyo3::prelude::*;
use pyo3::types::{PyList, PySequence};

use super::job::Outcome;

/// The result of a job that has one: a list of all values, or the first exception.
pub(super) fn assemble(py: Python<'_>, outcomes: Vec<Outcome>) -> Outcome {
    joined(py, outcomes).unwrap_or_else(|error| Outcome::error(py, error))
}

fn joined(py: Python<'_>, outcomes: Vec<Outcome>) -> PyResult<Outcome> {
    let list = PyList::empty(py);
    // Those that came one by one are put together first: a list made at once takes less time.
    let mut single = Vec::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Value(value) => single.push(value),
            Outcome::Values(values) => {
                if !single.is_empty() {
                    extend(&list, PyList::new(py, single.drain(..))?.as_any())?;
                }
                extend(&list, values.bind(py))?;
            }
            error @ Outcome::Error(_) => return Ok(error),
        }
    }
    let list = if list.is_empty() {
        PyList::new(py, single)?
    } else {
        extend(&list, PyList::new(py, single)?.as_any())?;
        list
    };
    Ok(Outcome::Value(list.into_any().unbind()))
}

fn extend(list: &Bound<'_, PyList>, more: &Bound<'_, PyAny>) -> PyResult<()> {
    let more = more.cast::<PySequence>()?;
    list.as_sequence().in_place_concat(more).map(drop)
}
