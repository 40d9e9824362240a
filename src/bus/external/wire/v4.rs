//! MQTT 3.1.1.

use super::{
    ExternalSettings, Heard, INFLIGHT, Item, KEEP_ALIVE, Lost, PACKET_MAX_BYTES, Packet, REQUESTS,
    chain, network, transport,
};
use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, Incoming, LastWill,
    MqttOptions, Outgoing, QoS, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::mpsc::Sender;

pub(super) fn connect(
    settings: &ExternalSettings,
    will: Bytes,
    tell: Sender<Result<Heard, Lost>>,
) -> AsyncClient {
    let broker = &settings.broker;
    let mut options = MqttOptions::new(&settings.client_id, broker.host(), broker.port());
    let packet_max_bytes = PACKET_MAX_BYTES as usize;
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_inflight(INFLIGHT)
        .set_max_packet_size(packet_max_bytes, packet_max_bytes)
        .set_transport(transport(settings));
    if let Some((user, password)) = &settings.login {
        options.set_credentials(user, password);
    }
    let topic = settings.will.topic.as_str();
    options.set_last_will(LastWill::new(topic, will, QoS::AtLeastOnce, true));
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    events.set_network_options(network());
    tokio::spawn(poll(events, tell));
    client
}

async fn poll(mut events: EventLoop, tell: Sender<Result<Heard, Lost>>) {
    let mut connected = false;
    loop {
        let told = match events.poll().await {
            Ok(event) => {
                let Some(heard) = heard(event) else { continue };
                connected |= matches!(heard, Heard::Connected);
                tell.send(Ok(heard)).await
            }
            Err(error) => {
                let lost = lost(&error, connected);
                drop(tell.send(Err(lost)).await);
                return;
            }
        };
        if told.is_err() {
            return;
        }
    }
}

fn heard(event: Event) -> Option<Heard> {
    match event {
        Event::Incoming(Incoming::ConnAck(_)) => Some(Heard::Connected),
        Event::Incoming(Incoming::Publish(publish)) => Some(Heard::Message(Packet {
            topic: publish.topic.into(),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            content_type: None,
            user_properties: Vec::new(),
            response_topic: None,
            correlation: None,
            expiry_s: None,
        })),
        Event::Incoming(Incoming::SubAck(ack)) => {
            let refused = ack.return_codes.contains(&SubscribeReasonCode::Failure);
            Some(Heard::Subscribed { refused })
        }
        Event::Incoming(Incoming::UnsubAck(_)) => Some(Heard::Unsubscribed),
        Event::Incoming(Incoming::PubAck(ack)) => Some(Heard::Acked(ack.pkid, None)),
        Event::Outgoing(Outgoing::Publish(pkid)) if pkid != 0 => Some(Heard::Sent(pkid)),
        _ => None,
    }
}

fn lost(error: &ConnectionError, connected: bool) -> Lost {
    let misunderstood = match error {
        ConnectionError::ConnectionRefused(code) => {
            *code == ConnectReturnCode::RefusedProtocolVersion
        }
        ConnectionError::MqttState(_) | ConnectionError::NotConnAck(_) => true,
        _ => false,
    };
    let why = match error {
        ConnectionError::Io(error) if !connected => format!("cannot be reached: {error}"),
        ConnectionError::ConnectionRefused(code) => format!("refuses the hub: {code:?}"),
        error => chain(error),
    };
    Lost { why, misunderstood: misunderstood && !connected }
}

pub(super) fn publish(client: &AsyncClient, item: &Item) -> bool {
    let qos = if item.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    client.try_publish(&*item.topic, qos, item.retain, item.payload.clone()).is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, filters: &[Box<str>]) -> bool {
    let filter = |path: &str| SubscribeFilter::new(path.to_string(), QoS::AtMostOnce);
    client.try_subscribe_many(filters.iter().map(|path| filter(path))).is_ok()
}
