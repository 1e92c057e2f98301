// SPDX-License-Identifier: MIT
//! Python objects that are imported when they are first needed.
//!
//! Two threads may import at once; then one result is dropped. Nobody waits for another
//! thread's import: the child of a fork would wait for ever for a thread that it doesn't have.

use std::sync::OnceLock;

use pyo3::prelude::*;

/// An attribute of a module.
pub(crate) struct Imported {
    module: &'static str,
    name: &'static str,
    object: OnceLock<Py<PyAny>>,
}

impl Imported {
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Self {
        Self {
            module,
            name,
            object: OnceLock::new(),
        }
    }

    /// The object; raises what importing it raises.
    #[inline]
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        if let Some(object) = self.object.get() {
            return Ok(object.bind(py));
        }
        self.import(py)
    }

    #[cold]
    fn import<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        let object = py.import(self.module)?.getattr(self.name)?.unbind();
        // Attached and without Python code in between, so no fork comes in the middle of it.
        Ok(self.object.get_or_init(|| object).bind(py))
    }
}
