//! MQTT 5.

use super::{
    CONNECT_LIMIT_S, ExternalSettings, Heard, INFLIGHT, Item, KEEP_ALIVE, Lost, PACKET_MAX_BYTES,
    Packet, REQUESTS, chain, network, transport,
};
use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Filter, LastWill, Packet as Incoming, PubAckReason, PublishProperties,
    RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc::Sender;

pub(super) fn connect(
    settings: &ExternalSettings,
    will: Bytes,
    tell: Sender<Result<Heard, Lost>>,
) -> AsyncClient {
    let broker = &settings.broker;
    let mut options = MqttOptions::new(&settings.client_id, broker.host(), broker.port());
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(true)
        .set_connection_timeout(CONNECT_LIMIT_S)
        .set_outgoing_inflight_upper_limit(INFLIGHT)
        .set_max_packet_size(Some(PACKET_MAX_BYTES))
        .set_network_options(network())
        .set_transport(transport(settings));
    if let Some((user, password)) = &settings.login {
        options.set_credentials(user, password);
    }
    let topic = settings.will.topic.as_str();
    options.set_last_will(LastWill::new(topic, will, QoS::AtLeastOnce, true, None));
    let (client, events) = AsyncClient::new(options, REQUESTS);
    tokio::spawn(poll(events, tell));
    client
}

async fn poll(mut events: EventLoop, tell: Sender<Result<Heard, Lost>>) {
    let mut connected = false;
    loop {
        let told = match events.poll().await {
            Ok(Event::Incoming(Incoming::Disconnect(packet))) => {
                let why = format!("the broker hung up: {:?}", packet.reason_code);
                drop(tell.send(Err(Lost { why, misunderstood: false })).await);
                return;
            }
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
        Event::Incoming(Incoming::Publish(publish)) => {
            let topic = String::from_utf8_lossy(&publish.topic).into();
            let properties = publish.properties.unwrap_or_default();
            Some(Heard::Message(Packet {
                topic,
                payload: publish.payload,
                qos: publish.qos as u8,
                retain: publish.retain,
                content_type: properties.content_type,
                user_properties: properties.user_properties,
                response_topic: properties.response_topic,
                correlation: properties.correlation_data,
                expiry_s: properties.message_expiry_interval,
            }))
        }
        Event::Incoming(Incoming::SubAck(ack)) => {
            let granted =
                |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Some(Heard::Subscribed { refused: !ack.return_codes.iter().all(granted) })
        }
        Event::Incoming(Incoming::UnsubAck(_)) => Some(Heard::Unsubscribed),
        Event::Incoming(Incoming::PubAck(ack)) => {
            let good =
                matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
            let why = (!good).then(|| format!("{:?}", ack.reason));
            Some(Heard::Acked(ack.pkid, why))
        }
        Event::Outgoing(Outgoing::Publish(pkid)) if pkid != 0 => Some(Heard::Sent(pkid)),
        _ => None,
    }
}

fn lost(error: &ConnectionError, connected: bool) -> Lost {
    let misunderstood = match error {
        ConnectionError::ConnectionRefused(code) => matches!(
            code,
            ConnectReturnCode::UnsupportedProtocolVersion
                | ConnectReturnCode::RefusedProtocolVersion
        ),
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
    // What has expired meanwhile goes out with its last second.
    let left = item.expires_at.map(|at| {
        let left = at.duration_since(jiff::Timestamp::now()).as_secs();
        u32::try_from(left.max(1)).unwrap_or(u32::MAX)
    });
    let properties = PublishProperties {
        message_expiry_interval: left,
        correlation_data: item.correlation.clone(),
        content_type: item.content_type.clone(),
        user_properties: item.user_properties.clone(),
        ..PublishProperties::default()
    };
    let (topic, payload) = (item.topic.to_string(), item.payload.clone());
    client.try_publish_with_properties(topic, qos, item.retain, payload, properties).is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, filters: &[Box<str>]) -> bool {
    let filter = |path: &str| Filter {
        retain_forward_rule: RetainForwardRule::OnEverySubscribe,
        ..Filter::new(path.to_string(), QoS::AtMostOnce)
    };
    client.try_subscribe_many(filters.iter().map(|path| filter(path))).is_ok()
}
