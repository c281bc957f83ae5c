// Programs of the graphics card. Colours of objects come from a texture with one pixel for each.

const COLOUR = `
uniform sampler2D colours;
vec4 colourOf(uint row) { return texelFetch(colours, ivec2(row % 4096u, row / 4096u), 0); }`;

// Each line is two triangles, whose corners find their ends by their number: `vertices` has for each
// vertex x and y (16 bits each) and its object. Instances would be slow without a graphics card.
const LINES = [`#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform usampler2D vertices;
uniform vec2 origin, size; uniform float unit, scale, halfWidth; uniform uint first;
${COLOUR}
uvec2 vertex(int i) { return texelFetch(vertices, ivec2(i & 1023, i >> 10), 0).rg; }
vec2 place(uint xy) { return (origin + vec2(int(xy << 16) >> 16, int(xy) >> 16) * unit) * scale; }
out vec4 colour; out float across;
void main() {
  int line = gl_VertexID / 6, corner = gl_VertexID % 6;
  uvec2 from = vertex(line);
  colour = from.g == 0xffffffffu ? vec4(0) : colourOf(first + from.g);
  across = 0.0;
  if (colour.a == 0.0) { gl_Position = vec4(2, 2, 0, 1); return; }
  vec2 p = place(from.r), q = place(vertex(line + 1).r);
  vec2 along = (q - p) / max(length(q - p), 0.001);
  bool end = corner == 1 || corner == 2 || corner == 4;
  float side = corner == 0 || corner == 1 || corner == 3 ? 1.0 : -1.0;
  vec2 at = (end ? q + along * 0.4 : p - along * 0.4) + vec2(-along.y, along.x) * side * halfWidth;
  across = side * halfWidth;
  gl_Position = vec4(at / size * vec2(2, -2) + vec2(-1, 1), 0, 1);
}`, `#version 300 es
precision highp float;
in vec4 colour; in float across; uniform float halfWidth; out vec4 pixel;
void main() {
  float away = abs(across), edge = 0.45 * (1.0 - smoothstep(halfWidth - 0.9, halfWidth, away));
  float core = 1.0 - smoothstep(halfWidth - 1.6, halfWidth - 0.8, away);
  pixel = mix(vec4(0, 0, 0, edge), vec4(colour.rgb, 1), core) * colour.a;
}`];

const POINTS = [`#version 300 es
precision highp float; precision highp int;
layout(location = 0) in vec2 centre;
uniform vec2 corner, size; uniform float scale, pointSize;
${COLOUR}
out vec4 colour;
void main() {
  colour = colourOf(uint(gl_VertexID));
  if (colour.a == 0.0) { gl_Position = vec4(2, 2, 0, 1); return; }
  gl_Position = vec4((centre - corner) * scale / size * vec2(2, -2) + vec2(-1, 1), 0, 1);
  gl_PointSize = pointSize;
}`, `#version 300 es
precision highp float;
in vec4 colour; uniform float pointSize; out vec4 pixel;
void main() {
  float away = length(gl_PointCoord - 0.5) * pointSize, edge = pointSize * 0.5;
  if (away > edge) discard;
  float core = 1.0 - smoothstep(edge - 1.2, edge - 0.6, away);
  pixel = (pointSize < 3.5 ? vec4(colour.rgb, 1) : mix(vec4(0, 0, 0, 0.5), vec4(colour.rgb, 1), core)) * colour.a;
}`];

const QUAD = [`#version 300 es
precision highp float;
uniform vec2 corner, size, extent; uniform float scale;
out vec2 at;
void main() {
  at = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = vec4((at * extent - corner) * scale / size * vec2(2, -2) + vec2(-1, 1), 0, 1);
}`, `#version 300 es
precision highp float;
in vec2 at; uniform sampler2D picture; out vec4 pixel;
void main() { pixel = texture(picture, at); pixel.rgb *= pixel.a; }`];

export function programs(gl) {
  const make = ([vertex, fragment]) => {
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      throw new Error(`the graphics card refuses a program: ${gl.getProgramInfoLog(program)}`);
    }
    const places = {};
    return { program, at: (name) => (places[name] ??= gl.getUniformLocation(program, name)) };
  };
  return { lines: make(LINES), points: make(POINTS), quad: make(QUAD) };
}
