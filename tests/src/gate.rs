//! A gate between an operator and the API server: bytes pass, are held back, or connections are refused.
//!
//! It knows nothing of HTTP. What is held back is delivered late when the gate opens, as on a network that was cut for a while.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use kube::config::Kubeconfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::ControlPlane;

/// What a gate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Everything passes.
    Open,
    /// What is sent to the API server stays here, on connections that are there and on new ones.
    Held,
    /// Connections are cut, and new ones refused.
    Shut,
}

/// A running gate; ends when it is dropped.
#[derive(Debug)]
pub struct Gate {
    way: watch::Sender<Way>,
    address: SocketAddr,
    held: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Gate {
    /// A gate before the API server of a control plane, open.
    pub async fn before(control_plane: &ControlPlane) -> Result<Self> {
        let server = control_plane.config().await?.cluster_url;
        let target = format!("{}:{}", server.host().context("no host")?, server.port_u16().context("no port")?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (way, held) = (watch::Sender::new(Way::Open), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(serve(listener, target, way.clone(), held.clone())).abort_handle();
        Ok(Self { way, address, held, task })
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// How many bytes were held back so far.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// A kubeconfig that leads through the gate, beside the control plane's own.
    pub fn kubeconfig(&self, control_plane: &ControlPlane) -> Result<PathBuf> {
        let mut kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig_path())?;
        for cluster in &mut kubeconfig.clusters {
            if let Some(cluster) = &mut cluster.cluster {
                cluster.server = Some(format!("https://{}", self.address));
            }
        }
        let path = control_plane.dir().join(format!("gate-{}.kubeconfig", self.address.port()));
        write(&path, &serde_json::to_string(&kubeconfig)?)?;
        Ok(path)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.way.send_replace(Way::Shut);
        self.task.abort();
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

async fn serve(listener: TcpListener, target: String, way: watch::Sender<Way>, held: Arc<AtomicUsize>) {
    while let Ok((client, _)) = listener.accept().await {
        if *way.borrow() == Way::Shut {
            // Dropped: the client sees that nobody is there.
            continue;
        }
        let (target, way, held) = (target.clone(), way.subscribe(), held.clone());
        tokio::spawn(async move {
            let mut shut = way.clone();
            tokio::select! {
                _ = shut.wait_for(|way| *way == Way::Shut) => {}
                _ = pass(client, &target, way, &held) => {}
            }
        });
    }
}

async fn pass(client: TcpStream, target: &str, mut way: watch::Receiver<Way>, held: &AtomicUsize) -> Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                // What was held back may just be on its way: the server, told of the end, could leave it undone.
                return Ok(());
            }
            if *way.borrow() == Way::Held {
                held.fetch_add(read, Ordering::AcqRel);
                if way.wait_for(|way| *way != Way::Held).await.is_err() {
                    return Ok(());
                }
            }
            to_server.write_all(&buffer[..read]).await?;
        }
    };
    let back = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::try_join!(there, back)?;
    Ok(())
}
