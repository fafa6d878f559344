"""Undoes what a client's payload codec has made of a history: it may encrypt or compress what runs
take and return."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import PayloadCodec

from .payloads import is_plain

DECODE_SECONDS = 10.0
"""How long the payloads of one history may take: a codec may ask a server."""
AT_ONCE = 50
"""Calls of a codec that are under way at the same time."""


async def decode(codec: PayloadCodec, messages: Iterable[Message]) -> None:
    """Replace the payloads anywhere in these messages. What the codec fails at, or has not decoded
    in time, stays as it is: whoever reads it can't, and says so."""
    places = itertools.chain.from_iterable(map(_encoded, messages))
    try:
        async with asyncio.timeout(DECODE_SECONDS):
            while part := [*itertools.islice(places, AT_ONCE)]:
                await asyncio.gather(*(_replace(codec, place) for place in part))
    except TimeoutError:
        pass


def _encoded(message: Message) -> Iterator[Payload | Payloads]:
    """What a codec has made, anywhere in a message. Temporal's own payloads are plain."""
    if isinstance(message, Payload):
        if not is_plain(message):
            yield message
    elif isinstance(message, Payloads):
        if not all(map(is_plain, message.payloads)):
            yield message
    else:
        for field, value in message.ListFields():
            if field.message_type is None:
                continue
            if isinstance(value, Message):
                inner = [value]
            else:
                inner = value.values() if field.message_type.GetOptions().map_entry else value
            for each in inner:
                if isinstance(each, Message):  # a map may hold texts
                    yield from _encoded(each)


async def _replace(codec: PayloadCodec, place: Payload | Payloads) -> None:
    try:
        if isinstance(place, Payloads):
            await codec.decode_wrapper(place)
        else:
            [decoded] = await codec.decode([place])
            place.CopyFrom(decoded)
    except Exception:
        pass
