//! The socket that nodes connect to.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sluice_feed::FeedAddress;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

/// The file of a Unix socket; removed when dropped, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("--listen unix:{}: another controller listens there", path.display())]
    InUse { path: PathBuf },
    #[error("--listen unix:{}: there is a file that is no socket: remove it, or choose another path", path.display())]
    NotASocket { path: PathBuf },
    #[error("--listen unix:{}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("--listen {address}")]
    Tcp { address: String, source: io::Error },
    #[error(
        "--listen {address}: {found} is no loopback address, and the feed over TCP is neither encrypted nor authenticated yet: \
         listen on a Unix socket or on loopback, or accept the risk with --insecure-listen"
    )]
    Exposed { address: String, found: SocketAddr },
}

/// Listens at `address`. `mode` is the permissions of a Unix socket's file.
pub(crate) fn listen(address: &FeedAddress, mode: u32, insecure: bool) -> Result<Listener, ListenError> {
    match address {
        FeedAddress::Unix(path) => unix(path, mode),
        FeedAddress::Tcp { host, port } => tcp(address, host, *port, insecure),
    }
}

fn unix(path: &Path, mode: u32) -> Result<Listener, ListenError> {
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
        }
        Err(source) => return Err(failed(source)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(ListenError::NotASocket { path: path.to_owned() }),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(ListenError::InUse { path: path.to_owned() }),
            // Left behind by a controller that was killed: replaced below.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(source) => return Err(failed(source)),
        },
    }
    // Under a name of its own until its permissions are right and it listens: nobody ever meets it half made.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let listener = prepare(&fresh, mode).and_then(|socket| {
        std::fs::rename(&fresh, path)?;
        UnixListener::from_std(socket.into())
    });
    let listener = listener.map_err(|source| {
        // Whatever went wrong, it is of no use to anybody.
        let _ = std::fs::remove_file(&fresh);
        failed(source)
    })?;
    let inode = std::fs::symlink_metadata(path).map_err(failed)?.ino();
    Ok(Listener::Unix(listener, SocketFile { path: path.to_owned(), inode }))
}

fn prepare(path: &Path, mode: u32) -> io::Result<Socket> {
    let _ = std::fs::remove_file(path);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(1024)?;
    Ok(socket)
}

fn tcp(address: &FeedAddress, host: &str, port: u16, insecure: bool) -> Result<Listener, ListenError> {
    let failed = |source| ListenError::Tcp { address: address.to_string(), source };
    let found = (host, port).to_socket_addrs().map_err(failed)?.collect::<Vec<_>>();
    if let Some(found) = found.iter().find(|found| !found.ip().is_loopback())
        && !insecure
    {
        return Err(ListenError::Exposed { address: address.to_string(), found: *found });
    }
    let listener = std::net::TcpListener::bind(found.as_slice()).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
