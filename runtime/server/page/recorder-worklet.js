// Hands what the microphone gives to the page: one channel, blocks of 2048 samples, and the rest at the end.
class Collector extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(2048);
    this.filled = 0;
    this.ended = false;
    this.port.onmessage = () => {
      this.flush();
      this.port.postMessage(null);
      this.ended = true;
    };
  }

  flush() {
    if (this.filled) this.port.postMessage(this.block.slice(0, this.filled));
    this.filled = 0;
  }

  process([channels]) {
    const [first] = channels;
    for (let at = 0; first && at < first.length; at++) {
      let sum = 0;
      for (const channel of channels) sum += channel[at];
      this.block[this.filled++] = sum / channels.length;
      if (this.filled === this.block.length) this.flush();
    }
    return !this.ended;
  }
}
registerProcessor("collector", Collector);
