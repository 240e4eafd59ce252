"""Asks Home Assistant, over MQTT, how many sensors have a state: ask.py PORT STATE SECONDS

Asks again every second for that many seconds, until there is an answer.
"""

import queue
import sys
import time
from typing import Any

import paho.mqtt.client as mqtt

port, state, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
answers: queue.Queue[str] = queue.Queue()


def on_connect(client: mqtt.Client, *_: Any) -> None:
    client.subscribe("peer/answer", qos=1)


def on_message(_client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
    answers.put(message.payload.decode())


client = mqtt.Client()
client.on_connect = on_connect
client.on_message = on_message
client.connect("127.0.0.1", port)
client.loop_start()
deadline = time.monotonic() + seconds
while time.monotonic() < deadline:
    client.publish("peer/ask", state, qos=1)
    try:
        print(answers.get(timeout=min(1, seconds)))
        break
    except queue.Empty:
        continue
else:
    sys.exit(f"no answer in {seconds} s")
client.disconnect()
