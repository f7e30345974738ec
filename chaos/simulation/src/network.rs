//! The network between hosts: one-way cuts, delay and loss, by pair of hosts.

/// Links between `n` hosts; each direction by itself.
#[derive(Debug)]
pub struct Network {
    hosts: usize,
    cuts: Vec<u32>,
    /// Added to each delay, in microseconds.
    slow: Vec<u64>,
    /// Percent of reports and answers that are lost with their connection.
    loss: Vec<u64>,
}

impl Network {
    /// A network in which everybody reaches everybody.
    #[must_use]
    pub fn new(hosts: usize) -> Self {
        Self { hosts, cuts: vec![0; hosts * hosts], slow: vec![0; hosts * hosts], loss: vec![0; hosts * hosts] }
    }

    const fn at(&self, from: usize, to: usize) -> usize {
        from * self.hosts + to
    }

    /// Whether a packet from `from` arrives at `to`. A host always reaches itself.
    #[must_use]
    pub fn up(&self, from: usize, to: usize) -> bool {
        from == to || self.cuts[self.at(from, to)] == 0
    }

    /// Cuts (or mends) one direction; cuts add up.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        let at = self.at(from, to);
        self.cuts[at] = if cut { self.cuts[at] + 1 } else { self.cuts[at].saturating_sub(1) };
    }

    /// What is added to the delay of one direction.
    pub fn set_slow(&mut self, from: usize, to: usize, micros: u64) {
        let at = self.at(from, to);
        self.slow[at] = micros;
    }

    /// The most that is added to the delay of one direction.
    #[must_use]
    pub fn slow(&self, from: usize, to: usize) -> u64 {
        self.slow[self.at(from, to)]
    }

    /// Percent of messages of one direction that are lost.
    pub fn set_loss(&mut self, from: usize, to: usize, percent: u64) {
        let at = self.at(from, to);
        self.loss[at] = percent;
    }

    /// Percent of messages of one direction that are lost.
    #[must_use]
    pub fn loss(&self, from: usize, to: usize) -> u64 {
        self.loss[self.at(from, to)]
    }

    /// Everything as new.
    pub fn heal(&mut self) {
        *self = Self::new(self.hosts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_one_way_and_add_up() {
        let mut network = Network::new(3);
        network.cut(0, 1, true);
        network.cut(0, 1, true);
        network.cut(0, 1, false);
        assert!(!network.up(0, 1) && network.up(1, 0) && network.up(0, 0));
        network.cut(0, 1, false);
        assert!(network.up(0, 1));
    }
}
