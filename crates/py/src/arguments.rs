// SPDX-License-Identifier: MIT
//! Arguments as the standard library understands them, with errors that name the parameter.

use core::time::Duration;

use freethreading_core::deadline::Deadline;
use freethreading_core::queue::Patience;
use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};

/// Anything that is true or false: `acquire(1)` is as good as `acquire(True)`.
#[derive(Clone, Copy)]
pub(crate) struct Truth(pub(crate) bool);

impl FromPyObject<'_, '_> for Truth {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        value.is_truthy().map(Self)
    }
}

/// A timeout in seconds, at most [`TIMEOUT_MAX`]; may be negative.
#[derive(Clone, Copy)]
pub(crate) struct Seconds(f64);

/// The standard library's `threading.TIMEOUT_MAX`: 64 bits of nanoseconds.
const TIMEOUT_MAX: f64 = 9_223_372_036.0;

impl FromPyObject<'_, '_> for Seconds {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let seconds = if let Ok(float) = value.cast::<PyFloat>() {
            float.value()
        } else if value.is_instance_of::<PyInt>() {
            // Integers beyond the range of floats are as good as infinite.
            let is_negative = || value.lt(0).unwrap_or(false);
            value
                .extract()
                .unwrap_or_else(|_| if is_negative() { -1.0 } else { f64::INFINITY })
        } else {
            // Whatever has `__float__` or `__index__`: NumPy's numbers, fractions.
            value.extract().map_err(|error| not_seconds(value, error))?
        };
        if seconds.is_nan() {
            return Err(PyValueError::new_err(
                "timeout must be a number of seconds, not NaN",
            ));
        }
        if seconds > TIMEOUT_MAX {
            return Err(PyOverflowError::new_err(format!(
                "timeout must be at most {TIMEOUT_MAX} seconds, or None to wait for ever"
            )));
        }
        Ok(Self(seconds))
    }
}

#[cold]
fn not_seconds(value: Borrowed<'_, '_, PyAny>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyTypeError>(value.py()) {
        return error;
    }
    match value.get_type().name() {
        Ok(class) => PyTypeError::new_err(format!(
            "timeout must be a number of seconds or None, not {class}"
        )),
        Err(error) => error,
    }
}

impl Seconds {
    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0.0
    }

    /// The deadline that many seconds from now: now if negative, never if past all clocks.
    pub(crate) fn deadline(self) -> Option<Deadline> {
        match Duration::try_from_secs_f64(self.0.max(0.0)) {
            Ok(timeout) => Deadline::after(timeout),
            Err(_) => None,
        }
    }
}

/// The deadline of a wait: none without a timeout.
pub(crate) fn deadline(timeout: Option<Seconds>) -> Option<Deadline> {
    timeout.and_then(Seconds::deadline)
}

/// What `acquire(blocking, timeout)` means, once the uncontended try has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NegativeTimeout {
    /// Waits for ever: locks.
    IsForever,
    /// Doesn't wait: semaphores.
    IsOver,
}

/// How long an `acquire` may wait.
pub(crate) fn patience(
    blocking: Truth,
    timeout: Option<Seconds>,
    negative: NegativeTimeout,
) -> PyResult<Patience> {
    let timeout = timeout
        .filter(|timeout| !(timeout.is_negative() && negative == NegativeTimeout::IsForever));
    match (blocking.0, timeout) {
        (true, timeout) => Ok(Patience::Until(deadline(timeout))),
        (false, None) => Ok(Patience::None),
        (false, Some(_)) => Err(PyValueError::new_err(
            "timeout can't be given for a non-blocking acquire",
        )),
    }
}

/// An argument that should be a whole number; [`Whole::named`] says whether it is.
pub(crate) struct Whole(Result<i64, NotWhole>);

/// Why an argument isn't a whole number.
enum NotWhole {
    /// It is of this class.
    Class(String),
    /// Its conversion raised something of its own.
    Raised(PyErr),
}

impl FromPyObject<'_, '_> for Whole {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let py = value.py();
        let number = match value.call_method0("__index__") {
            Ok(number) => number,
            Err(error)
                if error.is_instance_of::<PyAttributeError>(py)
                    || error.is_instance_of::<PyTypeError>(py) =>
            {
                let class = value.get_type().name()?.to_string();
                return Ok(Self(Err(NotWhole::Class(class))));
            }
            Err(error) => return Ok(Self(Err(NotWhole::Raised(error)))),
        };
        // Cut to 64 bits: all limits lie far below.
        let cut = |_| {
            number
                .lt(0)
                .map(|is_negative| if is_negative { i64::MIN } else { i64::MAX })
        };
        number.extract().or_else(cut).map(|number| Self(Ok(number)))
    }
}

impl Whole {
    pub(crate) fn new(number: i64) -> Self {
        Self(Ok(number))
    }

    /// The number; floats and the like are refused in the parameter's name.
    pub(crate) fn named(self, parameter: &str) -> PyResult<i64> {
        self.0.map_err(|error| match error {
            NotWhole::Class(class) => {
                PyTypeError::new_err(format!("{parameter} must be an integer, not {class}"))
            }
            NotWhole::Raised(error) => error,
        })
    }
}
