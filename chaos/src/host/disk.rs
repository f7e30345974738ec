//! The disk of a host: a small ext4 in a file, on a loop device.
//!
//! It can fill up, stall (a frozen file system: every write waits), and lose power: then only what had reached the
//! device is kept, not what was still in memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{HostError, shutdown::shutdown, tool};

/// The smallest piece of space that a file can take.
const PAGE: u64 = 4096;

/// One disk.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    mebibytes: u64,
    mounted: bool,
    frozen: bool,
}

impl Disk {
    /// Makes a disk of `mebibytes` in the file `image` and mounts it at `at`.
    pub fn create(image: PathBuf, at: PathBuf, mebibytes: u64) -> Result<Disk, HostError> {
        fs::create_dir_all(&at).map_err(HostError::io(format!("making {}", at.display())))?;
        let mut disk = Disk { image, at, mebibytes, mounted: false, frozen: false };
        disk.format()?;
        disk.mount()?;
        Ok(disk)
    }

    fn format(&self) -> Result<(), HostError> {
        let file = File::create(&self.image).map_err(HostError::io(format!("making {}", self.image.display())))?;
        file.set_len(self.mebibytes << 20).map_err(HostError::io("sizing a disk"))?;
        // No reserve for root, so that "full" is the same for everybody; few inodes, so that they can run out too.
        let options = ["-q", "-F", "-m", "0", "-E", "nodiscard", "-N", "16384"];
        tool("mkfs.ext4", &[&options[..], &[&*self.image.to_string_lossy()]].concat(), None)?;
        Ok(())
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    fn mount(&mut self) -> Result<(), HostError> {
        tool("mount", &["-o", "loop", &self.image.to_string_lossy(), &self.at.to_string_lossy()], None)?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), HostError> {
        tool("umount", &[&self.at.to_string_lossy()], None)?;
        self.mounted = false;
        Ok(())
    }

    /// Fills it up to the last block, with a file of ours.
    pub fn fill(&self) -> Result<(), HostError> {
        let path = self.ballast();
        let file = File::create(&path).map_err(HostError::io("making the file that fills a disk"))?;
        let mut size = 0;
        // Large pieces first, then ever smaller ones, until not even a page is left.
        let mut piece: u64 = 64 << 20;
        while piece >= PAGE {
            let done = nix::fcntl::fallocate(
                &file,
                nix::fcntl::FallocateFlags::empty(),
                size.try_into().expect("a disk's size fits"),
                piece.try_into().expect("a disk's size fits"),
            );
            match done {
                Ok(()) => size += piece,
                Err(nix::errno::Errno::ENOSPC) => piece /= 2,
                Err(source) => return Err(HostError::Kernel { what: "filling a disk", source }),
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub fn unfill(&self) -> Result<(), HostError> {
        fs::remove_file(self.ballast()).map_err(HostError::io("removing the file that fills a disk"))
    }

    /// Uses up every inode, so that no file can be made although there is space.
    pub fn exhaust_inodes(&self) -> Result<(), HostError> {
        let dir = self.at.join("ballast.inodes");
        fs::create_dir_all(&dir).map_err(HostError::io("making a folder"))?;
        for number in 0_u64.. {
            match File::create(dir.join(number.to_string())) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOSPC) => break,
                Err(error) => return Err(HostError::io("using up inodes")(error)),
            }
        }
        Ok(())
    }

    /// Gives them back.
    pub fn free_inodes(&self) -> Result<(), HostError> {
        fs::remove_dir_all(self.at.join("ballast.inodes")).map_err(HostError::io("removing files"))
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// From now on every write waits.
    pub fn stall(&mut self) -> Result<(), HostError> {
        tool("fsfreeze", &["-f", &self.at.to_string_lossy()], None)?;
        self.frozen = true;
        Ok(())
    }

    /// Writes go on.
    pub fn unstall(&mut self) -> Result<(), HostError> {
        tool("fsfreeze", &["-u", &self.at.to_string_lossy()], None)?;
        self.frozen = false;
        Ok(())
    }

    /// Everything written so far is on the device: what was prepared must not be lost with what servers write.
    pub fn sync(&self) -> Result<(), HostError> {
        tool("sync", &["--file-system", &self.at.to_string_lossy()], None).map(drop)
    }

    /// A power loss: what had not reached the device is gone. Nothing may run on this disk any more.
    ///
    /// The file system is shut down in one moment, and comes back by its journal. A copy of the image would be no moment
    /// that a disk ever had: the kernel goes on writing while it is made.
    pub fn lose_power(&mut self) -> Result<(), HostError> {
        shutdown(&self.at)?;
        self.unmount()?;
        self.mount()
    }

    /// A new, empty disk in its place. Nothing may run on the old one any more.
    pub fn replace(&mut self) -> Result<(), HostError> {
        self.unmount()?;
        self.format()?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Both are done again by the janitor, which also says what it could not do.
        if self.frozen {
            let _janitor = self.unstall();
        }
        if self.mounted {
            let _janitor = self.unmount();
        }
    }
}
