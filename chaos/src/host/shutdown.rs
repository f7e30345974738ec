//! Stops a file system where it stands, as a loss of power does: nothing that is still in memory is written any more.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::HostError;

/// `FS_IOC_SHUTDOWN` of linux/fs.h, `_IOR('X', 125, __u32)`: ext4, xfs and f2fs have it.
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// Without writing out the journal first.
const NO_LOG_FLUSH: u32 = 2;

/// Shuts down the file system mounted at `at`. Everything on it fails from then on, until it is mounted anew.
pub(super) fn shutdown(at: &Path) -> Result<(), HostError> {
    let root = File::open(at).map_err(HostError::io(format!("opening {}", at.display())))?;
    let mut how = NO_LOG_FLUSH;
    // SAFETY: the descriptor is open, and the kernel reads one u32 through the pointer.
    let done = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, std::ptr::from_mut(&mut how)) };
    nix::errno::Errno::result(done)
        .map(drop)
        .map_err(|source| HostError::Kernel { what: "shutting down a file system", source })
}
