//! Random bytes from the kernel, good for secrets, and never the same in two children: nothing is
//! kept in the process that a fork could copy.

use nix::errno::Errno;

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        // SAFETY: the kernel writes at most `rest.len()` bytes to `rest`, which is ours alone.
        let result = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(result) {
            Ok(count) => done += count,
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => {
                let error = Errno::last();
                crate::crash::panic_abort(&format!("the kernel gives no random bytes: {error}"))
            }
        }
    }
}

/// A random number.
pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_filled_and_differ() {
        let (mut left, mut right) = ([0u8; 1024], [0u8; 1024]);
        fill(&mut left);
        fill(&mut right);
        assert_ne!(left, right);
        // 64 zeros in a row by chance: once in 2^512.
        assert!(
            left.chunks(64)
                .all(|chunk| chunk.iter().any(|byte| *byte != 0))
        );
        assert_ne!(u64(), u64());
    }
}
