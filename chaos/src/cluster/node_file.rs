//! The configuration file of one node.

use std::collections::BTreeMap;

use super::{Cluster, ClusterError, Node};
use crate::{bare, host::shim::CONTROL};

/// Its text. `voters`: the initial ones; a node that is none of them is an agent without a vote. `more`: further lines
/// of `[member]`. `bootstrap`: the first settings of a new cluster, `None` for a node that joins one.
pub(super) fn text(
    cluster: &Cluster,
    node: &Node,
    voters: &[(u64, String)],
    more: &str,
    bootstrap: Option<&BTreeMap<String, String>>,
) -> Result<String, ClusterError> {
    let Node { id, member, listen, port, place, .. } = node;
    let list: Vec<String> = voters.iter().map(|(id, address)| format!("{id} = \"{address}\"")).collect();
    let initial = if voters.iter().any(|(voter, _)| voter == id) { "" } else { "initial_voter = false\n" };
    let journal = if cluster.journal { format!("journal = {:?}\n", node.dir.join("journal")) } else { String::new() };
    // Behind a front, its servers listen elsewhere than where they are known.
    let advertise = place.behind.as_ref().map_or_else(String::new, |_| format!("advertise = \"{listen}\"\n"));
    let listen = node.behind().unwrap_or_else(|| listen.clone());
    let postgres =
        place.behind.as_ref().map_or_else(String::new, |behind| format!("listen_addresses = \"{behind}\"\n"));
    // PostgreSQL gets no variable that is not named: the page of the host's faults is one.
    let passed = if place.environment.is_empty() { String::new() } else { format!("environment = [{CONTROL:?}]\n") };
    let mut text = format!(
        "cluster = \"chaos\"\n\
         [node]\nid = {id}\nlisten = \"{listen}\"\n{advertise}state_dir = {state:?}\nvoters = {{ {voters} }}\n{initial}{journal}\
         [member]\nname = \"{member}\"\nhost = \"{host}\"\nport = {port}\n{postgres}data_dir = {data:?}\n\
         bin_dir = {bin:?}\nreplication_password_file = {password:?}\nsuperuser = \"{user}\"\n\
         hba = [\"host all all {clients} trust\"]\n{passed}{more}\
         [member.parameters]\nshared_buffers = \"32MB\"\n",
        host = place.address,
        clients = place.clients,
        state = node.dir.join("state"),
        voters = list.join(", "),
        data = node.data_dir,
        bin = bare::bin_dir()?,
        password = cluster.password,
        user = cluster.account.name,
    );
    for (name, value) in &cluster.parameters {
        text.push_str(&format!("{name} = \"{value}\"\n"));
    }
    if let Some(settings) = bootstrap {
        let expect: Vec<String> = cluster.nodes.iter().map(|node| format!("\"{}\"", node.member)).collect();
        text.push_str(&format!("[bootstrap]\nexpect = [{}]\n[bootstrap.settings]\n", expect.join(", ")));
        for (key, value) in settings {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    Ok(text)
}
