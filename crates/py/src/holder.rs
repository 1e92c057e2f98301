// SPDX-License-Identifier: MIT
//! Who holds a lock, in words: for `repr` and for errors.

use freethreading_core::storage::{Holder, Storage, Token};
use pyo3::prelude::*;

use crate::imported::Imported;

/// "'ForkServerProcess-3' (pid 4242)" or "'Thread-1 (work)' (thread 139872)", as far as it is
/// known.
pub(crate) fn describe(py: Python<'_>, storage: Storage, token: Token) -> Option<String> {
    match storage.holder(token)? {
        Holder::Process {
            pid,
            name: Some(name),
        } => Some(format!("{} (pid {pid})", quoted(py, &name))),
        Holder::Process { pid, name: None } => Some(format!("pid {pid}")),
        Holder::Thread { id } => Some(match thread(py, id) {
            Some((name, ident)) => format!("{} (thread {ident})", quoted(py, &name)),
            None => format!("thread {id} of the kernel"),
        }),
    }
}

/// The name in Python's quotes, with what can't be printed escaped.
fn quoted(py: Python<'_>, name: &str) -> String {
    let repr = name.into_pyobject(py).map(|name| name.repr());
    match repr {
        Ok(Ok(repr)) => repr.to_string(),
        Ok(Err(_)) | Err(_) => format!("{name:?}"),
    }
}

/// Name and identifier of the thread that the kernel numbers so, if `threading` knows it.
fn thread(py: Python<'_>, id: u32) -> Option<(String, u64)> {
    static FIND: Imported = Imported::new("freethreading._functions", "find_thread");
    // Whatever goes wrong: a report mustn't fail, nor leave an exception behind.
    let found = FIND.get(py).and_then(|find| find.call1((id,))).ok()?;
    found.extract().ok()
}

/// "locked by 'ForkServerProcess-3' (pid 4242), 2 waiting", as far as it is known.
pub(crate) fn describe_lock(
    py: Python<'_>,
    storage: Storage,
    owner: Option<Token>,
    waiters: u32,
) -> String {
    let owner = owner
        .and_then(|token| describe(py, storage, token))
        .map_or_else(String::new, |owner| format!(" by {owner}"));
    let waiters = if waiters == 0 {
        String::new()
    } else {
        format!(", {waiters} waiting")
    };
    format!("locked{owner}{waiters}")
}
