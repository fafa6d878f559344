"""Decodes a history that a client's payload codec has encoded: it may encrypt or compress the
inputs and results of runs."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import PayloadCodec

from .payloads import is_plain

DECODE_SECONDS = 10.0
"""How long decoding one history may take: a codec may ask a server."""
AT_ONCE = 50
"""Maximum number of calls of a codec at once."""


async def decode(codec: PayloadCodec, messages: Iterable[Message]) -> None:
    """Decode the payloads anywhere in these messages. A payload that the codec can't decode, or not
    in time, stays as it is; the trace notes that it can't be read."""
    places = itertools.chain.from_iterable(map(_encoded, messages))
    try:
        async with asyncio.timeout(DECODE_SECONDS):
            while part := [*itertools.islice(places, AT_ONCE)]:
                await asyncio.gather(*(_replace(codec, place) for place in part))
    except TimeoutError:
        pass


def _encoded(message: Message) -> Iterator[Payload | Payloads]:
    """The payloads anywhere in a message that a codec has encoded; Temporal's own are plain."""
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
                if isinstance(each, Message):  # the values of a map may be strings
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
