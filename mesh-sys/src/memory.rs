//! The C library's heap: what is freed goes back to the kernel. Nothing to do with other
//! libraries than glibc's.

/// Lets all threads share one heap. Each would otherwise get its own, and what is freed in one
/// is of no use to another. To be called before threads are started.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it fails without effect.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
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
