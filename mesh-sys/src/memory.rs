//! What the process keeps resident: freed memory and code that nothing runs any more go back to
//! the kernel. The heap is the C library's; nothing is to be done with others than glibc's.

use std::ptr::null_mut;
use std::slice;

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

/// What the heap holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heap {
    /// In use, bytes.
    pub used: u64,
    /// Freed and kept to be used again, bytes; its pages may have been given back.
    pub freed: u64,
}

/// What the heap holds; `None` where the C library does not tell.
pub fn heap() -> Option<Heap> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: no preconditions.
        let info = unsafe { libc::mallinfo2() };
        Some(Heap {
            used: (info.uordblks + info.hblkhd) as u64,
            freed: info.fordblks as u64,
        })
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Lets go of the pages of code and constants, this program's and its libraries'. What is needed
/// comes back from the page cache by itself; what only starting has needed does not.
pub fn forget_code() {
    // SAFETY: the callback has the signature that is asked for and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(forget_object), null_mut()) };
}

/// Lets go of the segments of one object that are mapped from its file and never written.
extern "C" fn forget_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader hands a valid description to the callback.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: there are `dlpi_phnum` of them, and the object stays loaded during the call.
    let segments = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for segment in segments {
        // What is relocated when it is loaded lies in writable segments, on all targets of Rust.
        if segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_W == 0 {
            let start = (info.dlpi_addr + segment.p_vaddr) as usize;
            forget_pages(start, segment.p_filesz as usize);
        }
    }
    0
}

/// Lets go of the whole pages in a mapping of a file that is never written.
fn forget_pages(start: usize, length: usize) {
    // SAFETY: no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let first = start.next_multiple_of(page);
    let end = (start + length) / page * page;
    if first < end {
        // SAFETY: the pages are as they are in the file, and are read from there again when they
        // are touched. It fails without effect, such as for the vDSO, which has no file.
        unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(first),
                end - first,
                libc::MADV_DONTNEED,
            )
        };
    }
}
