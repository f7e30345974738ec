//! A TCP proxy for one direction of one pair of nodes, which can be cut.

use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Link {
    /// Where the one who connects is to connect.
    pub(crate) address: SocketAddr,
    cut: watch::Sender<bool>,
}

impl Link {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(splice(client, target, is_cut.clone()));
            }
        });
        Self { address, cut }
    }

    /// Ends all connections and lets no new one through, or lets them through again.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn splice(mut client: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    if *is_cut.borrow() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    for side in [&client, &server] {
        side.set_nodelay(true).expect("a TCP socket has this option");
    }
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}
