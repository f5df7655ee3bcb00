//! What a child process gives up before it sees a file.
//!
//! It keeps its three standard streams and its own memory, and can neither open a file nor write one. Deliberately absent:
//! namespaces and system call filters, which a container's own profile adds from outside.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd as _, AsRawFd as _, IntoRawFd as _},
};

use nix::unistd;
use rlimit::Resource;

/// Address space beyond the memory limit: the allocator reserves some for each thread without using it.
const RESERVED: u64 = 256 << 20;

/// The streams 0 to 2 and the answers' own.
const DESCRIPTORS: u64 = 4;

/// Closes every descriptor but the standard streams, and gives the standard output as a stream of its own: what a C library prints
/// then goes nowhere.
pub(super) fn descriptors() -> io::Result<File> {
    // librdkafka, for one, opens pipes that every child inherits.
    let foreign: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    for descriptor in foreign {
        // The listing's own descriptor was among them and is closed already.
        let _closed = unistd::close(descriptor);
    }
    let answers = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    debug_assert!((answers.as_raw_fd() as u64) < DESCRIPTORS);
    // The lowest free descriptor is the one that was closed.
    unistd::close(1)?;
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?.into_raw_fd();
    if nowhere == 1 { Ok(answers) } else { Err(io::Error::other("the standard output stays open")) }
}

/// Limits memory, files and core dumps, once and for good.
pub(super) fn resources(memory_bytes: u64) -> io::Result<()> {
    let mapped = mapped_bytes()?;
    lower(Resource::CORE, 0)?;
    lower(Resource::FSIZE, 0)?;
    lower(Resource::NOFILE, DESCRIPTORS)?;
    // What it allocates and its threads' stacks; and, since that leaves out shared and file mappings, all that it maps.
    lower(Resource::DATA, memory_bytes)?;
    lower(Resource::AS, mapped.saturating_add(memory_bytes).saturating_add(RESERVED))
}

/// Sets both limits, unless the process was started with a lower one.
fn lower(resource: Resource, to: u64) -> io::Result<()> {
    let (_, hard) = resource.get()?;
    resource.set(to.min(hard), to.min(hard))
}

/// Lets the process use so many more seconds of CPU than `used`. The kernel ends it at the limit.
pub(super) fn cpu(used: std::time::Duration, seconds: u64) -> io::Result<()> {
    let (_, hard) = Resource::CPU.get()?;
    let soft = used.as_secs().saturating_add(1).saturating_add(seconds);
    Resource::CPU.set(soft.min(hard), hard)
}

/// What this process has mapped.
fn mapped_bytes() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: u64 = kib.ok_or_else(|| io::Error::other("/proc/self/status has no VmSize"))?;
    Ok(kib.saturating_mul(1024))
}
