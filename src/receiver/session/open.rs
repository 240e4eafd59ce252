//! A session after its CONNECT.

use std::num::NonZeroU16;

use bytes::{Buf, BytesMut};

use super::addressed::Addressed;
use super::aliases::Aliases;
use super::packet_ids::PacketIds;
use super::{Intake, Next, Peer, Refusal, What};
use crate::domain::{EchoToken, Heartbeat};
use crate::receiver::codec::{self, Answers, Connect, Delivery, Packet, Publish, Version};

/// A session whose CONNECT was accepted.
#[derive(Debug)]
pub(super) struct Open {
    peer: Peer,
    /// True if the CONNECT asked for a session that is kept.
    keeps_session: bool,
    aliases: Aliases,
    /// Messages at QoS 2 whose second half is still to come.
    unreleased: PacketIds,
}

impl Open {
    pub(super) fn new(peer: Peer, connect: &Connect) -> Self {
        Self {
            peer,
            keeps_session: connect.keeps_session,
            aliases: Aliases::default(),
            unreleased: PacketIds::default(),
        }
    }

    /// Handles the packets in `bytes`, up to one that is not complete, or that ends the session.
    pub(super) fn handle(
        &mut self,
        bytes: &mut BytesMut,
        max_packet: u32,
        answers: &mut Answers,
        intake: &mut Intake,
    ) -> Next {
        let mut handled = 0;
        let next = loop {
            match codec::packet(answers.version(), &bytes[handled..], max_packet) {
                Ok(None) => break Next::Read,
                Ok(Some((packet, size))) => {
                    handled += size;
                    let next = self.take(packet, answers, intake);
                    if !matches!(next, Next::Read) {
                        break next;
                    }
                }
                Err(malformed) => break Next::End(Refusal::malformed(malformed)),
            }
        };
        bytes.advance(handled);
        next
    }

    fn take(&mut self, packet: Packet, answers: &mut Answers, intake: &mut Intake) -> Next {
        match packet {
            Packet::Publish(publish) => return self.publish(publish, answers, intake),
            Packet::Release(id) => {
                let known = self.unreleased.remove(id);
                answers.complete(id, known);
            }
            Packet::Subscribe { id, first, asked } => {
                self.subscribe(id, first, &asked, answers, intake);
            }
            Packet::Unsubscribe { id, filters } => answers.unsubscribed(id, filters),
            Packet::Ping => answers.pong(),
            Packet::Disconnect { keeps_session: true } if !self.keeps_session => {
                return Next::End(Refusal::protocol(
                    "the DISCONNECT wants a session to be kept, which the CONNECT did not",
                ));
            }
            Packet::Disconnect { .. } => return Next::Ended,
            Packet::Unexpected(name) => {
                let why = format!("{name} is not for a client of this server to send");
                return Next::End(Refusal::protocol(why));
            }
        }
        Next::Read
    }

    fn publish(&mut self, publish: Publish, answers: &mut Answers, intake: &mut Intake) -> Next {
        let Publish { topic, alias, payload, delivery } = publish;
        // First of all, because an alias holds even if its message was counted before.
        let addressed = match self.aliases.resolve(topic, alias, &self.peer, intake.topics) {
            Ok(addressed) => addressed,
            Err(refusal) => return Next::End(refusal),
        };
        if let Delivery::ExactlyOnce(id) = delivery
            && self.unreleased.contains(id)
        {
            // It was counted when it arrived first.
            answers.receive(id);
            return Next::Read;
        }
        let refusal = take_in(addressed, payload, intake);
        self.answer(delivery, refusal.as_ref(), answers);
        Next::Read
    }

    fn answer(&mut self, delivery: Delivery, refusal: Option<&Refusal>, answers: &mut Answers) {
        match (delivery, refusal) {
            (Delivery::AtMostOnce, _) => (),
            (Delivery::AtLeastOnce(id), None) => answers.acknowledge(id),
            (Delivery::AtLeastOnce(id), Some(refusal)) => {
                answers.reject(id, refusal.reason, refusal.words());
            }
            (Delivery::ExactlyOnce(id), None) => {
                self.unreleased.insert(id);
                answers.receive(id);
            }
            (Delivery::ExactlyOnce(id), Some(refusal)) => {
                // Only MQTT 5 can refuse the first half, and then there is no second.
                if answers.version() != Version::V5 {
                    self.unreleased.insert(id);
                }
                answers.reject_half(id, refusal.reason, refusal.words());
            }
        }
    }

    fn subscribe(
        &self,
        id: NonZeroU16,
        first: &str,
        asked: &[u8],
        answers: &mut Answers,
        intake: &mut Intake,
    ) {
        const WHY: &str = "this server only receives heartbeats: nobody may subscribe";
        match self.peer {
            Peer::Service => answers.grant(id, asked),
            Peer::Anyone | Peer::User(_) => {
                let refusal = Refusal::subscription(first, asked.len());
                intake.taken.refusals.add(What::Subscription, &refusal);
                answers.refuse_subscriptions(id, asked, WHY);
            }
        }
    }
}

/// Takes in a message. Returns why it does not count, if it does not.
fn take_in(addressed: Addressed, payload: &[u8], intake: &mut Intake) -> Option<Refusal> {
    match addressed {
        Addressed::Heartbeat(device) => {
            let heartbeat = Heartbeat::parse(device, payload, intake.now);
            intake.taken.batch.heartbeats.push(heartbeat);
            None
        }
        Addressed::Echo => {
            // One that is not a token comes back to nobody, which is noticed.
            intake.taken.batch.echo = parse_echo(payload).or(intake.taken.batch.echo);
            None
        }
        Addressed::Invalid(rejection) => {
            let refusal = Refusal::topic(rejection.to_string());
            intake.taken.batch.rejections.push(rejection);
            Some(refusal)
        }
        Addressed::Nothing(refusal) => {
            intake.taken.refusals.add(What::Message, &refusal);
            Some(refusal)
        }
    }
}

fn parse_echo(payload: &[u8]) -> Option<EchoToken> {
    str::from_utf8(payload).ok()?.parse().ok()
}
