// A program that transcribes a recording while it is read, on onnxruntime's C++ API. It follows docs/artifact.md.
//
//     g++ -std=c++17 -O2 transcribe.cpp -lonnxruntime -o transcribe
//     ./transcribe ARTIFACT AUDIO.wav [PRECISION [--ids]]
//
// All that it knows of the model is in the artifact's manifest. The recording is 16-bit PCM, mono, at the model's rate.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using Json = nlohmann::ordered_json;

const char* NEEDED = "1.30";  // version of onnxruntime
const int FORMATS[] = {1, 2};  // of the manifest, oldest and newest

const std::map<std::string, std::pair<ONNXTensorElementDataType, size_t>> TYPES = {
    {"float32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4}},
    {"float16", {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2}},
    {"int64", {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8}},
    {"int32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4}},
};
const Ort::MemoryInfo CPU = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

// An array of any type.
struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;

  Tensor(std::string dtype_, std::vector<int64_t> shape_) : dtype(dtype_), shape(shape_) {
    size_t size = TYPES.at(dtype).second;
    for (int64_t length : shape) size *= length;
    bytes.resize(size);
  }
  template <typename T>
  Tensor(std::string dtype_, std::vector<int64_t> shape_, const std::vector<T>& values) : Tensor(dtype_, shape_) {
    std::memcpy(bytes.data(), values.data(), bytes.size());
  }
  Ort::Value value() {  // shares the memory
    return Ort::Value::CreateTensor(CPU, bytes.data(), bytes.size(), shape.data(), shape.size(), TYPES.at(dtype).first);
  }
};

// Returns the path of a file that the manifest names. Manifests may come from strangers, so it must be below the folder.
std::string path_below(const std::string& folder, const std::string& name) {
  if (name.empty() || name.front() == '/' || ("/" + name + "/").find("/../") != std::string::npos ||
      name.find_first_of(":\\") != std::string::npos)
    throw std::runtime_error(folder + ": names a file that is not below it");
  return folder + "/" + name;
}

// A loaded graph, and its entry in the manifest.
struct Graph {
  Json spec;
  Ort::Session session;

  Graph(Ort::Env& env, const std::string& folder, const Json& graph)
      : spec(graph), session(env, path_below(folder, graph.at("path")).c_str(), options()) {}

  static Ort::SessionOptions options() {
    Ort::SessionOptions options;
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // twice as slow on a busy machine
    return options;
  }

  std::string dtype(const std::string& input) const {
    for (const Json& tensor : spec.at("inputs"))
      if (tensor.at("name") == input) return tensor.at("dtype");
    throw std::runtime_error("no input " + input);
  }
};

// The state that a graph carries from call to call: each buffer is bound as its input and its output at once.
class Cache {
 public:
  int64_t position = 0;

  Cache(Graph& graph, const Json& rules) : graph_(graph), rules_(rules), dtype_(graph.dtype("cos")) {
    for (const Json& input : graph.spec.at("inputs")) {
      std::string name = input.at("name");
      bool is_keys = name.rfind("past_key_values.", 0) == 0;
      if (!is_keys && (name.size() < 6 || name.substr(name.size() - 6) != "_state")) continue;
      std::vector<int64_t> shape;
      for (const Json& size : input.at("shape"))
        shape.push_back(size == "batch" ? 1 : size == "capacity" ? rule("capacity") : size.get<int64_t>());
      std::string present = is_keys ? "present" + name.substr(strlen("past_key_values")) : "present_" + name;
      buffers_.push_back({name, present, Tensor(input.at("dtype"), shape)});
    }
  }

  // Returns the buffer's row of the next position.
  int64_t row() const {
    int64_t keep = rule("keep"), capacity = rule("capacity");
    return position < capacity ? position : keep + (position - keep) % (capacity - keep);
  }
  // Returns how many rows the next call may write before the buffers are full.
  int64_t slots_left() const { return rule("capacity") - row(); }

  // Runs the graph for the next rows and returns one output.
  Ort::Value step(int64_t rows, std::map<std::string, Tensor> feeds, const char* output) {
    int64_t pairs = rule("head_dim") / 2;
    feeds.insert({"cos", rotation(rows, pairs, [](double angle) { return std::cos(angle); })});
    feeds.insert({"sin", rotation(rows, pairs, [](double angle) { return std::sin(angle); })});
    feeds.insert({"seqlens_k", Tensor("int32", {1}, std::vector<int32_t>{int32_t(row() + rows - 1)})});
    feeds.insert({"total_sequence_length", Tensor("int32", {}, std::vector<int32_t>{int32_t(rule("capacity"))})});

    Ort::IoBinding binding(graph_.session);
    for (auto& [name, tensor] : feeds) binding.BindInput(name.c_str(), tensor.value());
    for (Buffer& buffer : buffers_) {
      binding.BindInput(buffer.past.c_str(), buffer.tensor.value());
      binding.BindOutput(buffer.present.c_str(), buffer.tensor.value());
    }
    binding.BindOutput(output, CPU);
    graph_.session.Run(Ort::RunOptions(), binding);

    bool is_full = slots_left() == rows;
    position += rows;
    if (is_full) shift();
    return std::move(binding.GetOutputValues().back());
  }

 private:
  struct Buffer {
    std::string past, present;
    Tensor tensor;
  };

  int64_t rule(const char* name) const { return rules_.at(name).get<int64_t>(); }

  Tensor rotation(int64_t rows, int64_t pairs, const std::function<double(double)>& f) const {
    std::vector<float> single;
    for (int64_t i = position; i < position + rows; i++)
      for (int64_t j = 0; j < pairs; j++)
        single.push_back(float(f(i * std::pow(rules_.at("rope_theta").get<double>(), -double(j) / pairs))));
    if (dtype_ == "float32") return Tensor(dtype_, {1, rows, pairs}, single);
    return Tensor(dtype_, {1, rows, pairs}, std::vector<Ort::Float16_t>(single.begin(), single.end()));
  }

  // Shifts the last rows of each head to its front.
  void shift() {
    for (Buffer& buffer : buffers_) {
      if (buffer.tensor.shape.size() != 4) continue;
      size_t head = buffer.tensor.bytes.size() / buffer.tensor.shape[1], kept = head / rule("capacity") * rule("keep");
      for (char* at = buffer.tensor.bytes.data(); at < buffer.tensor.bytes.data() + buffer.tensor.bytes.size(); at += head)
        std::memmove(at, at + head - kept, kept);
    }
  }

  Graph& graph_;
  const Json& rules_;
  std::string dtype_;
  std::vector<Buffer> buffers_;
};

// A stream of any length at constant memory: samples in, tokens out.
class Stream {
 public:
  Stream(const Json& manifest, Graph& mel, Graph& encoder, Graph& decoder, std::function<void(int64_t)> on_token)
      : rules_(manifest.at("streaming")),
        tokens_(manifest.at("tokens")),
        per_token_(manifest.at("config").at("audio").at("hop_length").get<int64_t>() *
                   manifest.at("config").at("audio").at("frames_per_token").get<int64_t>()),
        rows_per_token_(manifest.at("caches").at("encoder").at("rows_per_token")),
        mel_(mel),
        activation_(decoder.dtype("audio_embeds")),
        encoder_cache_(encoder, manifest.at("caches").at("encoder")),
        decoder_cache_(decoder, manifest.at("caches").at("decoder")),
        on_token_(on_token),
        next_(tokens_.at("bos")),
        samples_(rule("look_back_samples") + rule("left_pad_tokens") * per_token_) {}

  // Takes the next samples and decodes the tokens that they decide.
  void feed(const std::vector<float>& samples) {
    count_ += samples.size();
    samples_.insert(samples_.end(), samples.begin(), samples.end());
    advance(INT64_MAX);
  }

  // Ends the audio: silence brings the tokens that are still delayed.
  void finish() {
    int64_t whole = (count_ + per_token_ - 1) / per_token_;
    int64_t pad = rule("default_delay_tokens") + rule("right_pad_tokens");
    samples_.resize(samples_.size() + (whole + pad) * per_token_ - count_ + rule("look_ahead_samples"));
    advance(rule("left_pad_tokens") + whole + pad - 1);
  }

 private:
  int64_t rule(const char* name) const { return rules_.at(name).get<int64_t>(); }

  // Encodes and decodes as many tokens as there are samples for, up to position `last` of the stream.
  void advance(int64_t last) {
    int64_t margin = rule("look_back_samples") + rule("look_ahead_samples");
    while (!ended_) {
      int64_t there = (int64_t(samples_.size()) - margin) / per_token_;
      int64_t chunk = std::min({there, last - decoder_cache_.position, rule("max_chunk_tokens"),
                                encoder_cache_.slots_left() / rows_per_token_});
      if (chunk <= 0) return;
      int64_t length = chunk * per_token_ + margin;
      Tensor audio("float32", {1, length}, samples_);
      Ort::Value input = audio.value();
      const char *in = "audio", *out = "input_features";
      Ort::Value features = std::move(mel_.session.Run(Ort::RunOptions(), &in, &input, 1, &out, 1)[0]);
      Tensor spectrum("float32", features.GetTensorTypeAndShapeInfo().GetShape());
      std::memcpy(spectrum.bytes.data(), features.GetTensorRawData(), spectrum.bytes.size());
      decode(encoder_cache_.step(chunk * rows_per_token_, {{"input_features", spectrum}}, "audio_embeds"), chunk);
      samples_.erase(samples_.begin(), samples_.begin() + chunk * per_token_);
    }
  }

  // Decodes the positions of a chunk one by one.
  void decode(const Ort::Value& embeds, int64_t chunk) {
    int64_t width = embeds.GetTensorTypeAndShapeInfo().GetShape()[2], delay = rule("default_delay_tokens");
    const char* data = static_cast<const char*>(embeds.GetTensorRawData());
    for (int64_t at = 0; at < chunk && !ended_; at++) {
      Tensor audio(activation_, {1, 1, width});
      std::memcpy(audio.bytes.data(), data + at * audio.bytes.size(), audio.bytes.size());
      std::map<std::string, Tensor> feeds = {
          {"input_ids", Tensor("int64", {1, 1}, std::vector<int64_t>{next_})},
          {"audio_embeds", audio},
          {"num_delay_tokens", Tensor("int64", {1}, std::vector<int64_t>{delay})},
          {"blank_penalty", Tensor("float32", {1, 1})},
      };
      Ort::Value sampled = decoder_cache_.step(1, feeds, "next_ids");
      bool is_prompt = decoder_cache_.position <= rule("left_pad_tokens") + delay;
      next_ = is_prompt ? tokens_.at("streaming_pad").get<int64_t>() : *sampled.GetTensorData<int64_t>();
      if (is_prompt) continue;
      on_token_(next_);
      ended_ = next_ == tokens_.at("eos");
    }
  }

  const Json &rules_, &tokens_;
  int64_t per_token_, rows_per_token_;
  Graph& mel_;
  std::string activation_;
  Cache encoder_cache_, decoder_cache_;
  std::function<void(int64_t)> on_token_;
  int64_t next_;
  std::vector<float> samples_;  // from look_back_samples before the next token to encode
  int64_t count_ = 0;           // samples fed so far
  bool ended_ = false;
};

// Decodes base64.
std::string decode_base64(const std::string& text) {
  std::string bytes;
  int bits = 0, count = 0;
  for (char c : text) {
    int value = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : 63;
    if (c == '=') break;
    bits = bits << 6 | value;
    if ((count += 6) >= 8) bytes += char(bits >> (count -= 8) & 255);
  }
  return bytes;
}

// Reads a JSON file.
Json read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  return Json::parse(file);
}

// Returns x of a version 1.x.
int minor_version(const std::string& version) {
  return std::stoi(version.substr(version.find('.') + 1));
}

int main(int count, char** arguments) try {
#ifndef _WIN32  // without it onnxruntime reports usage to its maker
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif

  // Read the manifest and load the graphs
  if (count < 3) throw std::runtime_error("usage: transcribe ARTIFACT AUDIO.wav [PRECISION [--ids]]");
  std::string folder = arguments[1], version = OrtGetApiBase()->GetVersionString();
  if (minor_version(version) < minor_version(NEEDED))
    throw std::runtime_error("onnxruntime " + version + ": needed is " + NEEDED + " or newer");
  Json manifest = read_json(folder + "/voxtral_onnx.json"), vocab = read_json(folder + "/tekken.json").at("vocab");
  int format = manifest.at("format");
  if (format < FORMATS[0] || format > FORMATS[1]) throw std::runtime_error(folder + ": another format; export again");
  const Json& precisions = manifest.at("precisions");
  std::string name = count > 3 ? arguments[3] : precisions.begin().key();
  if (!precisions.contains(name))
    throw std::runtime_error(folder + ": no " + name + "; add it: voxtral-onnx export SOURCE -o " + folder + " --precision " + name);
  const Json& precision = precisions.at(name);
  bool shows_ids = count > 4;
  Ort::Env env;
  Graph mel(env, folder, manifest.at("mel")), encoder(env, folder, precision.at("encoder")),
      decoder(env, folder, precision.at("decoder"));

  // Print each token as it comes
  int64_t first_text = manifest.at("tokens").at("first_text");
  bool has_begun = false;
  Stream stream(manifest, mel, encoder, decoder, [&](int64_t id) {
    if (shows_ids) std::cout << id << " ";
    if (shows_ids || id < first_text) return;
    std::string bytes = decode_base64(vocab[id - first_text].at("token_bytes"));
    std::cout << (has_begun || bytes[0] != ' ' ? bytes : bytes.substr(1)) << std::flush;
    has_begun = true;
  });

  // Read the WAV and feed it in blocks of 100 ms, as a microphone would
  std::ifstream audio(arguments[2], std::ios::binary);
  const std::string wav((std::istreambuf_iterator<char>(audio)), {});
  auto field = [&](size_t at, auto value) { return std::memcpy(&value, wav.data() + at, sizeof value), value; };
  const uint32_t rate = manifest.at("config").at("audio").at("sample_rate");
  const size_t start = wav.find("data", 36) + 8;
  if (start < 44 || start > wav.size() || field(20, uint16_t()) != 1 || field(22, uint16_t()) != 1 ||
      field(24, uint32_t()) != rate || field(34, uint16_t()) != 16)
    throw std::runtime_error(std::string(arguments[2]) + ": expected a WAV file: 16-bit PCM, mono, at the model's rate");
  const size_t end = std::min(wav.size() - 1, start + field(start - 4, uint32_t()));
  std::vector<float> block;
  for (size_t at = start; at < end; at += 2) {
    block.push_back(field(at, int16_t()) / 32768.f);
    if (block.size() < rate / 10) continue;
    stream.feed(block);
    block.clear();
  }
  stream.feed(block);
  stream.finish();
  std::cout << std::endl;
  return 0;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << std::endl;
  return 1;
}
