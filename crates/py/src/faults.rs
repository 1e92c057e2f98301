// SPDX-License-Identifier: MIT
//! For tests, in builds with the feature `faults` only: this process fails at a step of the engine.

use std::collections::HashMap;

use freethreading_core::faults;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Adds these functions to the native module.
pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(arm_fault, module)?)?;
    module.add_function(wrap_pyfunction!(start_counting_steps, module)?)?;
    module.add_function(wrap_pyfunction!(step_counts, module)?)
}

/// Arms a fault in this process, as "step:kill", "step:stop:3" or "*:delay:17" describe it.
#[pyfunction]
fn arm_fault(description: &str) -> PyResult<()> {
    faults::arm(description).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// From here on, counts how often this process reaches each step.
#[pyfunction]
fn start_counting_steps() {
    faults::start_counting();
}

/// How often this process has reached each step; all steps are in it.
#[pyfunction]
fn step_counts() -> HashMap<&'static str, u32> {
    faults::counts().collect()
}
