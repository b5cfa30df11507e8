// Records until it is told to stop: 16-bit WAV, one channel, at the browser's own rate.

const FULL_SCALE = 32767;
const MOST_BYTES = 24 * 2 ** 20; // the server takes 25 MiB: four minutes at 48 kHz
const SLOWER = 16000; // Hz, what the recogniser hears: of recordings that are longer
const CLIPPED_FROM = 0.99; // of full scale
const SUSPENDED_MS = 5000; // without an answer of the worklet, the system has suspended it
const BLOCK_S = 0.1; // the level is that of the loudest stretch of this length, as the server's gate measures it

export class Recorder {
  // `processing`: {suppress, gain}; `onLevel(dbfs, peak, seconds)`; `onLost()` when the microphone goes away.
  async start(processing, onLevel, onLost) {
    if (!navigator.mediaDevices) throw new DOMException("no secure context", "SecurityError");
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: {
        channelCount: 1,
        echoCancellation: false,
        noiseSuppression: processing.suppress,
        autoGainControl: processing.gain,
      },
    });
    try {
      this.context = new AudioContext();
      this.context.resume(); // not awaited: it is not answered where the system has no sound
      await this.context.audioWorklet.addModule("/page/recorder-worklet.js");
    } catch (error) {
      this.release();
      throw error;
    }
    this.blocks = [];
    this.length = 0;
    this.rate = this.context.sampleRate;
    this.node = new AudioWorkletNode(this.context, "collector", { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => {
      if (data === null) return this.ended();
      this.blocks.push(data);
      this.length += data.length;
      onLevel(...levelOf(data), this.length / this.rate);
    };
    this.context.createMediaStreamSource(this.stream).connect(this.node);
    this.stream.getTracks()[0].onended = onLost;
  }

  // Returns {wav, seconds, dbfs, peak, clipped}.
  async stop() {
    await new Promise((resolve) => {
      this.ended = resolve;
      this.node.port.postMessage("end");
      setTimeout(resolve, SUSPENDED_MS);
    });
    const rate = this.rate;
    this.release();
    const samples = new Float32Array(this.length);
    let at = 0;
    for (const block of this.blocks) {
      samples.set(block, at);
      at += block.length;
    }
    const wav = 2 * samples.length > MOST_BYTES ? toWav(await slower(samples, rate), SLOWER) : toWav(samples, rate);
    return { wav, seconds: this.length / rate, ...measure(samples, rate) };
  }

  release() {
    for (const track of this.stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    if (this.node) this.node.port.onmessage = null;
    this.context?.close();
    this.context = null;
  }
}

// RMS in dB relative to full scale, and the highest sample.
function levelOf(samples) {
  let squares = 0;
  let peak = 0;
  for (const sample of samples) {
    squares += sample * sample;
    peak = Math.max(peak, Math.abs(sample));
  }
  return [10 * Math.log10(squares / samples.length), peak];
}

// Loudest stretch in dBFS, highest sample, and the share of samples at the edge.
export function measure(samples, rate) {
  const step = Math.round(rate * BLOCK_S);
  let dbfs = -Infinity;
  let peak = 0;
  for (let at = 0; at < samples.length; at += step) {
    const [level, highest] = levelOf(samples.subarray(at, at + step));
    dbfs = Math.max(dbfs, level);
    peak = Math.max(peak, highest);
  }
  const clipped = samples.reduce((count, sample) => count + (Math.abs(sample) >= CLIPPED_FROM), 0);
  return { dbfs, peak, clipped: clipped / Math.max(1, samples.length) };
}

export async function slower(samples, rate) {
  const context = new OfflineAudioContext(1, Math.ceil((samples.length * SLOWER) / rate), SLOWER);
  const source = new AudioBufferSourceNode(context, {
    buffer: new AudioBuffer({ length: samples.length, sampleRate: rate }),
  });
  source.buffer.copyToChannel(samples, 0);
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

function toWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a sample
  view.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) =>
    view.setInt16(44 + 2 * i, Math.round(Math.max(-1, Math.min(1, sample)) * FULL_SCALE), true),
  );
  return new Blob([view.buffer], { type: "audio/wav" });
}
