//! The title of a process, as `ps` shows it.
//!
//! Linux shows what lies where the arguments lay when the program started, and goes on into the
//! environment's place if the last argument's end is overwritten. So the environment is copied
//! away first, and both places together hold the title.
//!
//! Invariant: the last byte of the place is always 0, so whatever still points into it (the C
//! library's and Rust's notion of the arguments) finds the end of a string.

use nix::sys::prctl;
use rd_base::Role;
use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::io;
use std::ptr;
use std::slice;
use std::sync::{Mutex, PoisonError};

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
}

/// The place of the title: address and length.
static PLACE: Mutex<Option<Place>> = Mutex::new(None);

struct Place {
    start: usize,
    len: usize,
}

/// Finds the place and moves the environment out of it. To be called once, early in `main`, when
/// the arguments have been read: afterwards they are gone. Titles set before, or when this fails,
/// show only as the short name.
///
/// # Panics
/// If there is more than one thread.
pub fn init() -> io::Result<()> {
    assert_eq!(
        crate::fork::threads()?,
        1,
        "the environment moves while only one thread sees it"
    );
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    if place.is_none() {
        let found = find_place()?;
        move_environment()?;
        *place = Some(found);
    }
    Ok(())
}

/// The title `redoubt: role detail`.
pub fn set_role(role: Role, detail: &str) {
    let space = if detail.is_empty() { "" } else { " " };
    set(
        &format!("redoubt: {role}{space}{detail}"),
        &format!("rd-{role}"),
    );
}

/// Sets the title, cut to the place there is, and the short name (15 bytes) that `top` shows.
pub fn set(text: &str, short: &str) {
    if let Some(place) = &*PLACE.lock().unwrap_or_else(PoisonError::into_inner) {
        place.write(text.as_bytes());
    }
    let short: Vec<u8> = short.bytes().filter(|byte| *byte != 0).take(15).collect();
    let short = CString::new(short).expect("the zeros were left out");
    // It fails on a bad address only, and a title is worth no error.
    let _ = prctl::set_name(&short);
}

impl Place {
    fn write(&self, text: &[u8]) {
        let start = ptr::with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: the kernel gave this range as the one of arguments and environment of this
        // process, on the stack above `main`; it stays mapped and writable. The environment has
        // moved away, and only `set` writes here, under the lock.
        let bytes = unsafe { slice::from_raw_parts_mut(start, self.len) };
        let count = text.len().min(self.len - 1);
        bytes[..count].copy_from_slice(&text[..count]);
        bytes[count..].fill(0);
    }
}

/// Where arguments and environment lie, by `/proc/self/stat`.
fn find_place() -> io::Result<Place> {
    let unknown = || io::Error::other("/proc/self/stat does not say where the arguments are");
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is the name in parentheses, and may hold anything; state is the third.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(unknown)?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Fields 48 to 51 of proc(5), the first of which is number 1.
    let field = |number: usize| -> io::Result<usize> {
        fields
            .get(number - 3)
            .and_then(|text| text.parse().ok())
            .ok_or_else(unknown)
    };
    let (arg_start, arg_end) = (field(48)?, field(49)?);
    let (env_start, env_end) = (field(50)?, field(51)?);
    if arg_start == 0 || arg_start >= arg_end {
        return Err(unknown());
    }
    let end = if env_start == arg_end && env_end >= env_start {
        env_end
    } else {
        arg_end
    };
    Ok(Place {
        start: arg_start,
        len: end - arg_start,
    })
}

/// Points every entry of the environment to a copy of its own.
fn move_environment() -> io::Result<()> {
    // SAFETY: `environ` is the C library's; with one thread nobody changes it meanwhile.
    let mut entry = unsafe { environ };
    if entry.is_null() {
        return Ok(());
    }
    loop {
        // SAFETY: the list ends with a null pointer, which was not reached yet.
        let text = unsafe { *entry };
        if text.is_null() {
            return Ok(());
        }
        // SAFETY: every entry before the end is a string that ends with 0.
        let copy = unsafe { CStr::from_ptr(text) }.to_owned();
        // SAFETY: the list is writable memory of ours; the copy is never freed.
        unsafe { *entry = copy.into_raw() };
        // SAFETY: the entry was not the last.
        entry = unsafe { entry.add(1) };
    }
}
