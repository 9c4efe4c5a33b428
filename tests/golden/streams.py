"""Token streams of languages whose text is not like English.

They are spelled with the real Tekken vocabulary.

`python tests/golden/streams.py` writes streams.json anew, whose format README.md tells. The ids are
mistral-common's, with blanks and [STREAMING_WORD] where the model puts them; captions are this
package's, read by people.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import mistral_common
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from voxtral_onnx.manifest import Tokens
from voxtral_onnx.runtime.text.captions import captions, to_srt, to_vtt
from voxtral_onnx.runtime.text.segments import Grouper, Segment, group
from voxtral_onnx.runtime.text.tokenizer import TextDecoder, Tokenizer
from voxtral_onnx.runtime.tokens import Token

HERE = Path(__file__).parent
TEKKEN = Path(mistral_common.__file__).parent / "data" / "tekken_240718.json"
TOKENS = Tokens(bos=1, eos=2, streaming_pad=32, streaming_word=33, first_text=1000)
SECONDS_PER_TOKEN = 0.08
# Segments, and the seconds of silence before each one; a word of n tokens is spoken in 0.24 s +
# 0.08 n
GROUPS = {
    "arabic": [
        *(
            (" السلام", 0.4),
            (" عليكم", 0),
            (" ورحمة", 0),
            (" الله", 0),
            (" وبركاته.", 0),
            (" كيف", 0.8),
            (" حالك", 0),
        ),
        *(
            (" اليوم؟", 0),
            (" أنا", 0),
            (" بخير،", 0),
            (" والحمد", 0),
            (" لله،", 0),
            (" وأتمنى", 0),
            (" أن", 0),
        ),
        *(
            (" تستمتعوا", 0),
            (" بهذه", 0),
            (" المحاضرة", 0),
            (" عن", 0),
            (" الذكاء", 0),
            (" الاصطناعي!", 0),
        ),
    ],
    "hindi": [
        *(
            (" नमस्ते", 0.4),
            (" दोस्तों,", 0),
            (" आज", 0),
            (" हम", 0),
            (" विज्ञान", 0),
            (" के", 0),
            (" बारे", 0),
            (" में", 0),
        ),
        *(
            (" बात", 0),
            (" करेंगे।", 0),
            (" क्या", 1.2),
            (" आप", 0),
            (" तैयार", 0),
            (" हैं?", 0),
            (" चलिए", 0),
        ),
        *(
            (" शुरू", 0),
            (" करते", 0),
            (" हैं।", 0),
            (" पृथ्वी", 0),
            (" सूर्य", 0),
            (" के", 0),
            (" चारों", 0),
            (" ओर", 0),
        ),
        *(
            (" लगभग", 0),
            (" तीन", 0),
            (" सौ", 0),
            (" पैंसठ", 0),
            (" दिनों", 0),
            (" में", 0),
            (" घूमती", 0),
            (" है।", 0),
        ),
    ],
    "japanese": [
        *(
            ("皆さん、", 0.4),
            ("おはよう", 0),
            ("ございます。", 0),
            ("今日は", 0.8),
            ("東京の", 0),
            ("天気に", 0),
        ),
        *(
            ("ついて", 0),
            ("お話し", 0),
            ("します。", 0),
            ("雨が", 0),
            ("降って", 0),
            ("いますか？", 0),
        ),
        *(
            ("いいえ、", 0),
            ("今は", 0),
            ("とても", 0),
            ("よく", 0),
            ("晴れて", 0),
            ("いますが、", 0),
            ("午後からは", 0),
        ),
        *(
            ("北西の", 0),
            ("風が", 0),
            ("強くなり、", 0),
            ("夜には", 0),
            ("雪が", 0),
            ("降るかも", 0),
            ("しれません！", 0),
        ),
        *(("𠮷野家の", 0.8), ("鱻を", 0), ("食べました🎉", 0)),
    ],
}


def golden() -> dict[str, Any]:
    """What streams.json holds."""
    oracle, tokenizer = Tekkenizer.from_file(TEKKEN), Tokenizer(TEKKEN, TOKENS)
    shift = TOKENS.first_text - oracle.num_special_tokens
    streams, used = {}, set()
    for language, groups in GROUPS.items():
        ids: list[int] = []
        now = 0.0
        for text, silence in groups:
            pieces = [token_id + shift for token_id in oracle.encode(text, bos=False, eos=False)]
            now += silence + 0.24 + SECONDS_PER_TOKEN * len(pieces)
            ids += [TOKENS.streaming_pad] * (round(now / SECONDS_PER_TOKEN) - len(ids) - 1)
            # Blanks stand anywhere
            ids += [TOKENS.streaming_word, *pieces[:1], TOKENS.streaming_pad, *pieces[1:]]
        used |= set(ids)
        streams[language] = {"token_ids": ids, **rendered(ids, tokenizer)}
    spelled = {
        i: base64.b64encode(tokenizer.bytes_of(i)).decode()
        for i in sorted(used)
        if i >= TOKENS.first_text
    }
    return {
        "streaming_pad": TOKENS.streaming_pad,
        "streaming_word": TOKENS.streaming_word,
        "first_text": TOKENS.first_text,
        "seconds_per_token": SECONDS_PER_TOKEN,
        "token_bytes": spelled,
        "streams": streams,
    }


def segments(ids: list[int], tokenizer: Tokenizer) -> list[Segment]:
    """The segments of a stream."""
    decoder = TextDecoder(tokenizer)
    return list(
        group(
            (
                Token(i, t, decoder.push(t), (i + 1) * SECONDS_PER_TOKEN, -0.1, 0.0)
                for i, t in enumerate(ids)
            ),
            Grouper(TOKENS),
        )
    )


def rendered(ids: list[int], tokenizer: Tokenizer) -> dict[str, Any]:
    """Text, segments, captions and their files."""
    found = segments(ids, tokenizer)
    return {
        "text": tokenizer.decode(ids),
        "segments": [
            {"start": round(s.start, 3), "end": round(s.end, 3), "text": s.text} for s in found
        ],
        "captions": [
            {"start": round(c.start, 3), "end": round(c.end, 3), "lines": list(c.lines)}
            for c in captions(found)
        ],
        "srt": to_srt(found),
        "vtt": to_vtt(found),
    }


if __name__ == "__main__":
    (HERE / "streams.json").write_text(
        json.dumps(golden(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
