//! A disk of its own for the data of one process: a small image in a file. It can be full, and it can
//! fail as disks do, when the kernel makes the file system read-only under whoever has files open.
//! Nothing else on the machine notices. Needs root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::lease::{Lease, run};
use crate::Failure;

/// What takes all the room there is.
const BALLAST: &str = ".ballast";
/// It takes what is left in pieces down to this, bytes.
const PIECE_MIN: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub struct Disk {
    point: PathBuf,
    image: PathBuf,
    failed: AtomicBool,
    /// Its mount is recorded there.
    _lease: Arc<Lease>,
}

impl Disk {
    /// Makes a disk of so many MiB and mounts it.
    ///
    /// # Errors
    /// When the kernel refuses, or `mkfs.ext4` (Debian: e2fsprogs) is missing.
    pub fn mount(lease: &Arc<Lease>, point: &Path, mib: u64) -> Result<Self, Failure> {
        std::fs::create_dir_all(point).map_err(Failure::of("cannot make a mount point"))?;
        let point = point.canonicalize().map_err(Failure::of("cannot use a mount point"))?;
        let image = point.with_extension("disk");
        let made = File::create(&image).and_then(|file| file.set_len(mib * 1024 * 1024));
        made.map_err(Failure::of("cannot make a disk"))?;
        // No journal: after an error of the disk there is none to be played back. Nothing is kept
        // for root, as whom nodes run here.
        let options = ["-q", "-F", "-m", "0", "-O", "^has_journal"];
        let path = image.to_string_lossy();
        let all: Vec<&str> = options.into_iter().chain([&*path]).collect();
        run("mkfs.ext4", &all, "")?;
        lease.mount(&point)?;
        let failed = AtomicBool::new(false);
        let disk = Self { point, image, failed, _lease: Arc::clone(lease) };
        disk.attach()?;
        // A store wants its directory for itself.
        let found = disk.point.join("lost+found");
        std::fs::remove_dir(&found).map_err(Failure::of("cannot empty a disk"))?;
        Ok(disk)
    }

    fn attach(&self) -> Result<(), Failure> {
        let (image, point) = (self.image.to_string_lossy(), self.point.to_string_lossy());
        run("mount", &["-t", "ext4", "-o", "loop,errors=remount-ro", &image, &point], "")
    }

    /// Where it is.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// It takes nothing more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn fill(&self) -> Result<(), Failure> {
        let ballast = File::options().create(true).append(true).open(self.point.join(BALLAST));
        let ballast = ballast.map_err(Failure::of("cannot fill a disk"))?;
        let length = |file: &File| file.metadata().map(|metadata| metadata.len());
        let mut end = length(&ballast).map_err(Failure::of("cannot fill a disk"))?;
        let room = statvfs(&self.point).map_err(Failure::of("cannot see what room there is"))?;
        let mut piece = room.f_bavail * room.f_frsize;
        while piece >= PIECE_MIN {
            match fallocate(&ballast, FallocateFlags::empty(), end, piece) {
                Ok(()) => end += piece,
                Err(_) => piece /= 2,
            }
        }
        Ok(())
    }

    /// It has room again, and can be written. Of one that failed everybody must have let go.
    ///
    /// # Errors
    /// When nothing was done to it, or somebody uses it that failed.
    pub fn restore(&self) -> Result<(), Failure> {
        if self.has_failed() { self.repair() } else { self.make_room() }
    }

    fn make_room(&self) -> Result<(), Failure> {
        let removed = std::fs::remove_file(self.point.join(BALLAST));
        removed.map_err(Failure::of("cannot make room on a disk"))
    }

    /// It fails: from now on nothing can be written, also by who has files open.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read_only(&self) -> Result<(), Failure> {
        let device = self.device()?;
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        let failed = std::fs::write(&trigger, "an error on purpose");
        failed.map_err(Failure::of("cannot make a disk fail"))?;
        self.failed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it failed. Then who uses it must end before it can be [restored](Disk::restore).
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn repair(&self) -> Result<(), Failure> {
        run("umount", &[&*self.point.to_string_lossy()], "")?;
        // 1: errors were corrected, which is what it is called for.
        let image = self.image.to_string_lossy();
        run("sh", &["-c", "e2fsck -f -y \"$0\" || [ $? = 1 ]", &image], "")?;
        self.attach()?;
        self.failed.store(false, Ordering::Relaxed);
        // What the check may have made, or what filled it before.
        let _ = std::fs::remove_dir(self.point.join("lost+found"));
        let _ = std::fs::remove_file(self.point.join(BALLAST));
        Ok(())
    }

    /// The device that it is mounted from: `loop0`.
    fn device(&self) -> Result<String, Failure> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo");
        let mounts = mounts.map_err(Failure::of("cannot see what is mounted"))?;
        // `36 35 7:0 / POINT rw … - ext4 /dev/loop0 rw`
        let point = self.point.to_string_lossy();
        let of = |line: &str| line.split(' ').nth(4).is_some_and(|mounted| mounted == point);
        let line = mounts.lines().rfind(|line| of(line));
        let device = line.and_then(|line| line.split_once(" - ")?.1.split(' ').nth(1));
        let device = device.and_then(|device| device.strip_prefix("/dev/"));
        let missing = || Failure::new(format!("{point} is not mounted"));
        device.map(str::to_owned).ok_or_else(missing)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It goes when the last process lets go of it.
        let _ = run("umount", &["--lazy", &*self.point.to_string_lossy()], "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn disk(directory: &Path) -> Disk {
        Disk::mount(&Lease::take().unwrap(), &directory.join("data"), 16).unwrap()
    }

    fn written(file: &mut File, bytes: usize) -> Option<rustix::io::Errno> {
        let written = file.write_all(&vec![b'x'; bytes]).and_then(|()| file.sync_all());
        written.err().and_then(|error| rustix::io::Errno::from_io_error(&error))
    }

    #[test]
    fn a_full_disk_takes_nothing_until_it_has_room() {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path());
        assert_eq!(std::fs::read_dir(disk.point()).unwrap().count(), 0);
        let mut file = File::create(disk.point().join("a")).unwrap();
        assert_eq!(written(&mut file, 4096), None);
        disk.fill().unwrap();
        assert_eq!(written(&mut file, 65536), Some(rustix::io::Errno::NOSPC));
        assert!(std::fs::write(directory.path().join("elsewhere"), "x").is_ok());
        disk.restore().unwrap();
        assert_eq!(written(&mut file, 65536), None);
        let point = disk.point().to_owned();
        drop((file, disk));
        assert!(!point.join("a").exists(), "it is still mounted");
    }

    #[test]
    fn a_failed_disk_cannot_be_written_by_anybody_until_it_is_repaired() {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path());
        let path = disk.point().join("a");
        let mut file = File::create(&path).unwrap();
        assert_eq!(written(&mut file, 4096), None);
        disk.read_only().unwrap();
        assert_eq!(written(&mut file, 4096), Some(rustix::io::Errno::ROFS));
        assert!(File::create(disk.point().join("b")).is_err());
        assert!(disk.restore().is_err(), "a file is open");
        drop(file);
        disk.restore().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
        File::create(disk.point().join("b")).unwrap();
    }
}
