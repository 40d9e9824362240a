//! An embeddable MQTT broker.
