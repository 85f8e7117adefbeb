//! Time, the network between the nodes, their deaths and returns, and the users.

use std::collections::BTreeMap;

use types::genesis::Genesis;
use types::ids::TimeMs;

use super::actions::{Action, Event, Packet, Step, Stop, Surroundings};
use super::dice::Dice;
use super::judge::{Judge, Violation};
use super::node::SimNode;
use super::users::{self, EPOCH_MS, USERS};
use super::{Config, Crashes, Report};

/// Time between two users' requests, milliseconds.
const USER_MS: (u64, u64) = (80, 400);
/// Blocks that must follow after the faults end.
const CALM_BLOCKS: u64 = 4;

/// When a node is cut off from others: from, to (milliseconds), and each node's side.
struct Split {
    from: u64,
    to: u64,
    sides: Vec<bool>,
}

/// How bad the network is in a run.
struct Weather {
    lost: u64,
    doubled: u64,
    delay_ms: u64,
    splits: Vec<Split>,
}

enum Happening {
    /// At a node, in one of its lives.
    Node { node: usize, life: u32, event: Event },
    /// A dead node comes back.
    Boot { node: usize },
    /// A user asks for something.
    User,
}

pub(super) struct World {
    config: Config,
    nodes: Vec<SimNode>,
    judge: Judge,
    dice: Dice,
    weather: Weather,
    now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    height_at_calm: Option<u64>,
}

type Failed = (u64, Violation);

fn uncaught(stop: Stop) -> Violation {
    match stop {
        Stop::Broken(violation) => violation,
        Stop::Crash => Violation::Node("died outside of its work".into()),
    }
}

impl World {
    pub(super) fn new(config: Config) -> Result<Self, Failed> {
        let mut dice = Dice::new(config.seed);
        let size = usize::try_from(dice.between(4, 7)).unwrap_or(4);
        let genesis: Genesis = users::genesis(size);
        let made: Step<Vec<_>> = (0..size).map(|index| SimNode::new(index, &genesis, config.bug, &mut dice)).collect();
        let weather = Weather::draw(&config, size, &mut dice);
        let mut world = Self {
            config,
            nodes: made.map_err(|stop| (0, uncaught(stop)))?,
            judge: Judge::new(genesis.hash()),
            dice,
            weather,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            height_at_calm: None,
        };
        world.judge.report.nodes = size;
        for node in 0..size {
            world.plan_death(node);
            world.at(1, Happening::Boot { node });
        }
        world.at(100, Happening::User);
        Ok(world)
    }

    fn at(&mut self, after_ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now.saturating_add(after_ms), self.sequence), happening);
    }

    fn rough(&self) -> bool {
        self.now < self.config.rough_ms
    }

    /// Draws at which of its coming effects a node dies.
    fn plan_death(&mut self, node: usize) {
        let Some(n) = self.nodes.get_mut(node) else { return };
        n.dies_at = match self.config.crashes {
            // Two of three lives end early, some while the node still comes up.
            Crashes::Drawn if self.dice.chance(667) => Some(n.effects + self.dice.between(1, 350)),
            Crashes::Drawn => None,
            Crashes::After { node: chosen, effects } if chosen == node && n.life == 0 => Some(effects),
            Crashes::After { .. } => None,
        };
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Result<Report, Failed> {
        let end = self.config.rough_ms.saturating_add(self.config.calm_ms);
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            if at > end {
                break;
            }
            self.now = at;
            if !self.rough() && self.height_at_calm.is_none() {
                self.height_at_calm = Some(self.judge.height());
                self.nodes.iter_mut().for_each(|n| n.dies_at = None);
            }
            self.happen(happening).map_err(|violation| (at, violation))?;
        }
        self.finish().map_err(|violation| (end, violation))
    }

    fn finish(mut self) -> Result<Report, Violation> {
        let top = self.judge.height();
        let before = self.height_at_calm.unwrap_or(0);
        let mut lowest = u64::MAX;
        for node in &self.nodes {
            let height = node.height().map_err(uncaught)?.0;
            lowest = lowest.min(height);
            let live = node
                .live
                .as_ref()
                .ok_or_else(|| Violation::NoProgress(format!("node {} never came back", node.index)))?;
            if height.saturating_add(1) < top {
                return Err(Violation::NoProgress(format!(
                    "node {} is at height {height}, others at {top}",
                    node.index
                )));
            }
            if !live.machine.is_signing() {
                return Err(Violation::Node(format!(
                    "node {} does not sign at height {}",
                    node.index,
                    live.machine.height()
                )));
            }
        }
        if lowest < before.saturating_add(CALM_BLOCKS) {
            return Err(Violation::NoProgress(format!("height {before} when the faults ended, {lowest} at the end")));
        }
        self.judge.report.height = lowest;
        self.judge.report.fingerprint = self.judge.fingerprint();
        Ok(self.judge.report)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Node { node, life, event } => {
                let alive = self.nodes.get(node).is_some_and(|n| n.life == life && n.live.is_some());
                match event {
                    event if alive => self.step(node, |n, around| n.on_event(around, event)),
                    Event::Packet { from, packet } => {
                        self.unanswered(from, node, &packet);
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            Happening::Boot { node } => self.step(node, |n, around| n.boot(around)),
            Happening::User => {
                let after = self.dice.between(USER_MS.0, USER_MS.1);
                self.at(after, Happening::User);
                self.user()
            }
        }
    }

    /// One step of a node; if it dies in it, it comes back later with what its disk kept.
    fn step(
        &mut self,
        node: usize,
        work: impl FnOnce(&mut SimNode, &mut Surroundings<'_>) -> Step,
    ) -> Result<(), Violation> {
        let size = self.nodes.len();
        let Some(n) = self.nodes.get_mut(node) else { return Ok(()) };
        let mut around = Surroundings {
            now: self.now,
            nodes: size,
            dice: &mut self.dice,
            judge: &mut self.judge,
            actions: Vec::new(),
        };
        let result = work(n, &mut around);
        let actions = std::mem::take(&mut around.actions);
        let life = n.life;
        // What it did before it died is done.
        for action in actions {
            match action {
                Action::Send { to: Some(to), packet } => self.carry(node, to, packet),
                Action::Send { to: None, packet } => {
                    (0..size).filter(|to| *to != node).for_each(|to| self.carry(node, to, packet.clone()))
                }
                Action::Later { after_ms, event } => self.at(after_ms, Happening::Node { node, life, event }),
            }
        }
        match result {
            Ok(()) => Ok(()),
            Err(Stop::Broken(violation)) => Err(violation),
            Err(Stop::Crash) => {
                if let Some(n) = self.nodes.get_mut(node) {
                    n.power_cut(&mut self.dice);
                }
                self.judge.report.crashes += 1;
                if self.rough() {
                    self.plan_death(node);
                }
                let after = self.dice.between(20, 1_500);
                self.at(after, Happening::Boot { node });
                Ok(())
            }
        }
    }

    /// Requests run over a connection: who asked learns that it got no answer.
    fn unanswered(&mut self, from: usize, to: usize, packet: &Packet) {
        let (asker, peer) = match packet {
            Packet::Request(_) => (from, to),
            Packet::Response(_) => (to, from),
            _ => return,
        };
        if let Some(life) = self.nodes.get(asker).filter(|n| n.live.is_some()).map(|n| n.life) {
            self.at(400, Happening::Node { node: asker, life, event: Event::Unanswered { peer } });
        }
    }

    /// Takes a message to another node, if the network lets it through.
    fn carry(&mut self, from: usize, to: usize, packet: Packet) {
        let rough = self.config.rough && self.rough();
        if rough && (self.weather.split(self.now, from, to) || self.dice.chance(self.weather.lost)) {
            self.judge.report.lost += 1;
            self.unanswered(from, to, &packet);
            return;
        }
        let copies = if rough && self.dice.chance(self.weather.doubled) { 2 } else { 1 };
        let Some(life) = self.nodes.get(to).map(|n| n.life) else { return };
        for _ in 0..copies {
            let slow = rough && self.dice.chance(30);
            let longest = if slow {
                self.weather.delay_ms * 20
            } else if rough {
                self.weather.delay_ms
            } else {
                15
            };
            let after = self.dice.between(1, longest);
            // A message to a dead node is lost with it; one to a node that has come back since is too.
            self.at(after, Happening::Node { node: to, life, event: Event::Packet { from, packet: packet.clone() } });
        }
    }

    /// A user asks some living node.
    fn user(&mut self) -> Result<(), Violation> {
        let node = self.dice.index(self.nodes.len());
        let who = self.dice.index(USERS);
        let size = self.nodes.len();
        let now = TimeMs(EPOCH_MS).plus(self.now);
        if self.nodes.get(node).is_none_or(|n| n.live.is_none()) {
            return Ok(());
        }
        self.step(node, |n, around| {
            let account = users::user(who).public();
            let Some(nonce) = n.free_nonce(&account)? else { return Ok(()) };
            let tx = if around.dice.chance(450) {
                users::job(n.genesis, who, nonce, now, size, around.dice)
            } else {
                users::transfer(n.genesis, who, nonce, now, around.dice)
            };
            around.broadcast(Packet::tx(&tx));
            n.take_tx(tx)
        })
    }
}

impl Weather {
    fn draw(config: &Config, size: usize, dice: &mut Dice) -> Self {
        let mut splits = Vec::new();
        for _ in 0..dice.between(0, 3) {
            let from = dice.between(0, config.rough_ms);
            let to = from.saturating_add(dice.between(200, 2_000));
            let sides = (0..size).map(|_| dice.chance(400)).collect();
            splits.push(Split { from, to, sides });
        }
        Self { lost: dice.between(0, 120), doubled: dice.between(0, 200), delay_ms: dice.between(5, 40), splits }
    }

    fn split(&self, now: u64, a: usize, b: usize) -> bool {
        self.splits.iter().any(|s| s.from <= now && now < s.to && s.sides.get(a) != s.sides.get(b))
    }
}
