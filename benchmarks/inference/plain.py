"""A client as one writes it in an afternoon: the `openai` SDK, asyncio, and a clock around the stream.

`measure.py` runs it: python plain.py URL PROMPTS STREAMS WARMUP RAMP TOKENS >REQUESTS
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

from openai import AsyncOpenAI, OpenAIError


async def ask(client: AsyncOpenAI, prompt: str, tokens: int) -> dict:
    messages = [{"role": "user", "content": prompt}]
    first = last = None
    start = time.perf_counter()
    stream = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=tokens, stream=True)
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            last = time.perf_counter()
            first = first or last
    return {"prompt": prompt, "start": start, "ttft": first - start, "latency": last - start}


async def main(url: str, file: str, streams: int, warmup: int, ramp: float, tokens: int) -> None:
    client = AsyncOpenAI(base_url=url, api_key="none")
    prompts = Path(file).read_text().splitlines()
    for prompt in prompts[:warmup]:
        await ask(client, prompt, tokens)
    left, told = iter(prompts[warmup:]), []

    async def stream(position: int) -> None:
        await asyncio.sleep(ramp * position / streams)
        for prompt in left:
            with contextlib.suppress(OpenAIError):  # one that fails is told by nobody
                told.append(await ask(client, prompt, tokens))

    await asyncio.gather(*(stream(position) for position in range(streams)))
    print("\n".join(map(json.dumps, told)))


if __name__ == "__main__":
    url, file, streams, warmup, ramp, tokens = sys.argv[1:]
    asyncio.run(main(url, file, int(streams), int(warmup), float(ramp), int(tokens)))
