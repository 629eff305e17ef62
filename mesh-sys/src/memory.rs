//! The C library's heap: what is freed goes back to the kernel. Nothing to do with other
//! libraries than glibc's.

/// Most memory that is kept on the heap when it is freed, until [`give_back`], bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 32 << 20;

/// Lets all threads share one heap. Each would otherwise get its own, and what is freed in one
/// is of no use to another. Freed memory stays there until [`give_back`]: work that comes in
/// bursts finds it again. To be called before threads are started.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TRIM_THRESHOLD, KEPT),
        (libc::M_MMAP_THRESHOLD, KEPT),
    ] {
        // SAFETY: no preconditions; it fails without effect.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Gives the pages back that only hold freed memory, wherever in the heap they are.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
