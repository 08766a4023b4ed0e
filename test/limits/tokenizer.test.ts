import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import { exactTokenizer, fastTokenizer } from "../../src/limits/tokenizer.ts";

const exact = await exactTokenizer();

/** Deterministic noise, so that a failure can be repeated. */
const noise = Buffer.concat(Array.from({ length: 60 }, (_, i) => createHash("sha256").update(`block ${i}`).digest()));

const letters = (alphabet: string, length: number): string =>
  Array.from({ length }, (_, i) => alphabet[(noise[i % noise.length] as number) % alphabet.length]).join("");

const NATURAL: Readonly<Record<string, string>> = {
  english: `The harbour master kept two ledgers. In the first he wrote what every captain had promised to pay before the ship was loaded; in the second,
what the captain really owed once the cargo had been weighed. People laughed at him for doing the same work twice, until the winter when three ships left
in one night and each of them had been promised the same empty warehouse. After that nobody laughed. "A promise," he used to say, "is only worth something
if you hold the money while you're making it." He wasn't a generous man, but he was never wrong by more than a coin, and that was enough to keep the whole
town out of court for almost thirty years. When he retired, his daughter kept the books exactly as he'd taught her.`,
  chat: `hey! can you help me plan a birthday party for my 7 year old? she loves dinosaurs and space. we have about $200 and maybe 10-12 kids, it's gonna be in our
backyard on saturday the 14th. I'd like games, food ideas & a rough schedule. oh and one kid is allergic to peanuts!! thanks :)`,
  technical: `To configure the reverse proxy, set \`proxy_buffering off;\` in the location block and forward the X-Forwarded-For header. HTTP/2 multiplexes
requests over one TCP connection, so max_connections=100 does not limit concurrency. See RFC 9110, section 15.5.17 for the semantics of 416 responses; a
client SHOULD retry idempotent methods (GET, PUT, DELETE) after a 503 with exponential backoff and jitter, e.g. 250ms, 500ms, 1s.`,
  markdown: `# Release notes\n\n## 2.4.0 (2026-03-09)\n\n- **Added** a \`--dry-run\` flag to \`deploy\` (#1204)\n- **Fixed** a race in the [scheduler](./docs/scheduler.md)\n
| Region | Before | After |\n|--------|-------:|------:|\n| eu-west | 120 ms | 84 ms |\n| us-east | 95 ms | 71 ms |\n\n> Note: node 18 is no longer supported.\n`,
  typescript: `export class InvoiceRepository implements Repository<Invoice> {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  async findOverdue(customerId: string, today = new Date()): Promise<readonly Invoice[]> {
    const rows = await this.#db.selectFrom("invoices").selectAll().where("customer_id", "=", customerId).where("due_at", "<", today).execute();
    return rows.map((row) => ({ ...row, total: row.net_cents + row.tax_cents, isOverdue: true }));
  }
}
`,
  python: `def merge_sorted(left, right, key=lambda item: item):
    """Merge two sorted lists into one, keeping equal items in order."""
    merged, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if key(left[i]) <= key(right[j]):
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]
`,
  sql: `SELECT c.name, COUNT(o.id) AS orders, SUM(o.total_cents) / 100.0 AS revenue FROM customers c LEFT JOIN orders o ON o.customer_id = c.id
WHERE o.created_at >= DATE '2026-01-01' AND c.country IN ('DE', 'FR', 'PL') GROUP BY c.name HAVING COUNT(o.id) > 3 ORDER BY revenue DESC LIMIT 50;`,
  html: `<section class="card card--wide"><h2 id="pricing">Pricing</h2><p>Choose a <a href="/plans?ref=home">plan</a> that fits.</p>
<ul><li data-tier="free">Free &mdash; 0&nbsp;€</li><li data-tier="pro">Pro &mdash; 12&nbsp;€</li></ul><button type="submit" disabled>Continue</button></section>`,
  json: JSON.stringify(
    {
      order: { id: 48213, customer: { name: "Maria Keller", email: "maria.keller@example.org", vip: true }, currency: "EUR" },
      lines: [
        { sku: "LAMP-0042-BLK", title: "Desk lamp, black", quantity: 2, unitPrice: 39.9, discount: null },
        { sku: "BULB-E27-9W", title: "LED bulb 9W", quantity: 6, unitPrice: 4.25, discount: 0.1 },
      ],
      shipping: { method: "express", address: { street: "Lindenallee 7", zip: "20095", city: "Hamburg" }, eta: "2026-05-18T09:30:00Z" },
    },
    null,
    2,
  ),
  jsonCompact: JSON.stringify(
    Array.from({ length: 12 }, (_, i) => ({ id: i * 37, user_name: `guest${i}`, active: i % 2 === 0, tags: ["new", "trial"], score: i * 1.75 })),
  ),
  german: `Der Hausmeister hatte zwei Schlüsselbunde: einen für die Wohnungen und einen für den Keller. Als eines Morgens beide verschwunden waren, begann er mit der
gründlichsten Untersuchung, die das Gebäude je gesehen hatte. Er befragte die Nachbarn, durchsuchte die Mülltonnen und schrieb sogar einen höflichen Brief an die Hausverwaltung.
Am Abend fand er die Schlüssel in seiner eigenen Manteltasche, dort, wo sie immer gewesen waren.`,
  french: `Le boulanger du village se levait chaque nuit à trois heures. Il préparait d'abord la pâte, puis il allumait le four et buvait un café en écoutant la radio. À six heures, les
premiers clients arrivaient déjà : l'institutrice, le facteur, parfois un pêcheur qui n'était pas encore couché. « Deux baguettes bien cuites, s'il vous plaît », disait-on, et il répondait
toujours qu'elles étaient encore trop chaudes.`,
  spanish: `La biblioteca cerraba a las ocho, pero la señora Ortiz siempre dejaba entrar a los estudiantes que llegaban tarde. Decía que un libro no puede esperar hasta mañana. Durante el
invierno encendía la chimenea de la sala grande y preparaba chocolate para todos; nadie recuerda que alguna vez haya cobrado una multa.`,
  portuguese: `O farol ficou sem luz durante quatro noites, e os pescadores começaram a contar histórias. Alguns diziam que o velho guardião tinha ido embora com o circo; outros, que ele dormia
sob o efeito de uma maldição. Na quinta noite a luz voltou, e ninguém explicou nada.`,
  polish: `Zegarmistrz mieszkał nad swoim warsztatem i nigdy nie wychodził przed dziewiątą. Mówił, że źle nastawiony zegarek jest gorszy niż żaden, ponieważ człowiek mu wierzy. Kiedy dzieci
pytały go o godzinę, odpowiadał zawsze: „Za wcześnie, żeby się martwić, i za późno, żeby zaczynać od nowa”.`,
  turkish: `Köyün tek öğretmeni her sabah okula bisikletle gelirdi. Çocuklar onu uzaktan görünce bahçeye koşar, çantasını taşımak için yarışırlardı. Kışın yollar kapandığında dersleri evinde
verir, sobanın üzerinde kestane pişirirdi.`,
  vietnamese: `Mỗi buổi sáng, ông lão bán phở ở góc phố lại nhóm bếp trước khi mặt trời mọc. Khách quen của ông là những người lái xe, các cô giáo và vài sinh viên chưa kịp ngủ. Ông chẳng bao giờ
ghi sổ, nhưng không quên một ai còn nợ tiền.`,
  indonesian: `Setiap pagi nelayan itu mendorong perahunya ke laut sebelum matahari terbit. Istrinya menunggu di pantai sambil memperbaiki jaring yang robek. Kalau hasil tangkapannya banyak, mereka
membagikan sebagian ikan kepada tetangga yang sudah terlalu tua untuk bekerja.`,
  russian: `Смотритель маяка каждое утро записывал в журнал погоду, хотя никто этого журнала не читал. Он считал, что порядок начинается с привычки: сначала вскипятить чайник, потом подняться по лестнице и
посмотреть, не изменилось ли море. Однажды зимой к берегу прибило лодку без вёсел, и в ней спала девочка лет семи. С тех пор записей в журнале стало вдвое больше, потому что она умела замечать то, чего он
давно уже не видел.`,
  ukrainian: `Пасічник жив на краю села і ніколи не поспішав. Він казав, що бджоли не люблять метушні, а мед чує, коли людина сердиться. Восени до нього приїздили сусіди з порожніми банками, і кожен платив стільки,
скільки вважав за потрібне.`,
  greek: `Ο γέρος ψαράς καθόταν κάθε απόγευμα στο λιμάνι και επιδιόρθωνε τα δίχτυα του. Τα παιδιά τον ρωτούσαν πόσα ψάρια είχε πιάσει στη ζωή του, κι εκείνος απαντούσε ότι μετράει μόνο όσα άφησε πίσω στη θάλασσα.`,
  chineseSimplified: `老木匠每天天不亮就起床，先烧一壶水，再把昨天没做完的椅子搬到院子里。他说木头也有脾气，急不得。村里的年轻人都去了城里，只有一个小女孩常来看他干活。她问他为什么不用机器，他笑着回答：“机器做得快，可是它不知道谁会坐在上面。”后来，
女孩长大了，成了一名工程师，但她家里的桌椅一直是老人亲手做的。`,
  chineseTraditional: `每到週末，圖書館門前的廣場就會擠滿了人。有人帶著自己種的蔬菜來交換，有人彈著吉他唱老歌，孩子們則圍著賣糖葫蘆的老伯伯不肯離開。據說這個市集已經有一百多年的歷史，連戰爭的時候也沒有停過一次。`,
  japanese: `祖父は毎朝五時に起きて、庭の松に水をやるのが習慣だった。雨の日でも傘をさして外に出るので、近所の人たちはよく笑っていた。ある日、私が理由を尋ねると、祖父は「木は雨の味に飽きるんだよ」と真面目な顔で答えた。それが冗談だったのか、
今でもわからない。けれども、コーヒーを飲みながら松を眺めるたびに、あの言葉を思い出す。`,
  korean: `할머니는 시장에서 삼십 년 동안 국수를 팔았다. 손님이 많은 날에도 육수는 꼭 새벽에 끓였고, 남은 것은 절대로 다음 날 쓰지 않았다. 나는 방학마다 가게 일을 도우며 계산하는 법을 배웠다. 지금도 비가 오면 그 골목의 냄새가 떠오른다.`,
  arabic: `كان صاحب المكتبة القديمة يفتح بابه كل صباح قبل أن تستيقظ المدينة. يرتب الكتب على الطاولة الخشبية ثم يجلس ليقرأ الصحيفة ويشرب القهوة. لم يكن يبيع كثيراً، لكنه كان يعرف اسم كل طالب مر من هنا، ويتذكر الكتاب الذي استعاره ولم يرجعه.`,
  persian: `پیرمرد هر روز عصر کنار رودخانه می‌نشست و به بچه‌ها یاد می‌داد چگونه قایق کاغذی بسازند. می‌گفت قایقی که با عجله ساخته شود، زود غرق می‌شود.`,
  hebrew: `השען הזקן פתח את החנות בכל בוקר בשמונה בדיוק, ואיש לא ראה אותו מאחר. הילדים בשכונה היו מכוונים את השעונים שלהם לפי הצעדים שלו במדרגות.`,
  hindi: `गाँव का डाकिया हर सुबह साइकिल पर निकलता था और शाम को ही लौटता था। उसे सबके घर का पता याद था, पर अपना चश्मा वह रोज़ भूल जाता था। बच्चे उसके लिए चिट्ठियाँ पढ़ देते थे और बदले में टॉफ़ी लेते थे।`,
  thai: `ทุกเช้าคุณยายจะตื่นก่อนไก่ขันเพื่อเตรียมข้าวเหนียวไปขายที่ตลาด ลูกค้าประจำของยายคือเด็กนักเรียนกับคนขับรถ ยายไม่เคยขึ้นราคาเลยแม้ของจะแพงขึ้นทุกปี`,
  emojiChat: `omg 😂😂 that was SO good 🔥 thank you!! 🙏❤️ see you at 8 👋 (bring 🍕 and 🍺 pls) ✅ done, ⚠️ late though 😅`,
};

const ARTIFICIAL: Readonly<Record<string, string>> = {
  emoji: "😀😂🥰🤔👍🏽👩‍💻🚀🎉🌍🍕⚽️🇩🇪🇯🇵🧑‍🚀💡📈🔥✨🐙🦄🎸🏔️❤️‍🔥👨‍👩‍👧‍👦",
  symbols: "→ ← ≤ ≥ ≠ ∞ ∑ √ π ° € £ ¥ § © ® ™ • … — – “quoted” ‘single’ «guillemets» ½ ¾ × ÷ ± ✓ ✗ ★ ☆",
  boxes: "┌──────┬──────┐\n│ name │ size │\n├──────┼──────┤\n│ a.ts │ 12 k │\n└──────┴──────┘\n",
  base64: noise.toString("base64"),
  base64Lines: noise.toString("base64").replaceAll(/.{76}/g, "$&\n"),
  base64url: noise.toString("base64url"),
  hex: noise.toString("hex"),
  uuids: Array.from({ length: 40 }, (_, i) => noise.toString("hex", i, i + 16).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-")).join("\n"),
  digits: letters("0123456789", 900),
  csvNumbers: Array.from({ length: 60 }, (_, i) => `${i},${i * 7.25},2026-0${1 + (i % 9)}-1${i % 10},${i * 1_000_003}`).join("\n"),
  randomWords: letters("abcdefghijklmnopqrstuvwxyz ", 1200),
  randomLetters: letters("abcdefghijklmnopqrstuvwxyz", 800),
  randomCapitals: letters("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 800),
  randomMarks: letters("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", 800),
  spaces: " ".repeat(2000),
  tabs: "\t".repeat(400),
  newlines: "\n".repeat(400),
  indented: Array.from({ length: 40 }, (_, i) => `${"  ".repeat(i % 8)}x${i}\n`).join(""),
  blankLines: "a\n\n\n\nb\r\n\r\nc   \n   \nd\t\te\n".repeat(20),
  dashes: "-".repeat(500),
  runicAndOldItalic: "ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ𐌀𐌁𐌂𐌃𐌄",
  mathLetters: "𝓗𝓮𝓵𝓵𝓸 𝕨𝕠𝕣𝕝𝕕 𝟘𝟙𝟚",
  ethiopic: "ሰላም ለዓለም እንዴት ነህ",
  cherokee: "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
  loneSurrogates: "\ud83d x \ude00 y \ud800",
  zeroes: "\u0000\u0001\u0002\u001f".repeat(20),
};

const errorPct = (text: string): number => {
  const counted = exact(text);
  return ((fastTokenizer(text) - counted) / counted) * 100;
};

describe("fastTokenizer", () => {
  test.each(Object.keys(NATURAL))("%s: at most 10 %% under and 25 %% over the real vocabulary", (name) => {
    const error = errorPct(NATURAL[name] as string);
    expect(error).toBeGreaterThanOrEqual(-10);
    expect(error).toBeLessThanOrEqual(25);
  });

  test.each(Object.keys(ARTIFICIAL))("%s: at most 15 %% under", (name) => {
    expect(errorPct(ARTIFICIAL[name] as string)).toBeGreaterThanOrEqual(-15);
  });

  test("all natural samples together are counted within -2 % to 10 %", () => {
    const error = errorPct(Object.values(NATURAL).join("\n\n"));
    expect(error).toBeGreaterThanOrEqual(-2);
    expect(error).toBeLessThanOrEqual(10);
  });

  test("nothing is 0 and anything is at least 1", () => {
    expect(fastTokenizer("")).toBe(0);
    const counts = ["a", " ", "\n", "7", ".", "é", "я", "中", "あ", "한", "\ud83d", "\0", "🙂"].map(fastTokenizer);
    expect(Math.min(...counts)).toBeGreaterThanOrEqual(1);
  });

  test("common short texts are exact", () => {
    const texts = ["hi", "Hello!", "hello world", "Say hi.", "What is the capital of France?", "2 + 2 = 4", "1234567890", "Thank you very much."];
    expect(texts.map(fastTokenizer)).toEqual(texts.map(exact));
  });

  test("a long text costs what its parts cost", () => {
    const once = fastTokenizer(NATURAL.english as string);
    expect(fastTokenizer((NATURAL.english as string).repeat(200)) / (200 * once)).toBeCloseTo(1, 1);
  });
});

describe("exactTokenizer", () => {
  test("counts o200k_base tokens", () => {
    expect(exact("")).toBe(0);
    expect(exact("hello world")).toBe(2);
    expect(exact("1234567890")).toBe(4);
  });

  test("a special token in a client's text is text", () => {
    expect(exact("<|endoftext|>")).toBeGreaterThan(1);
  });

  test("without the package it names the setting and the package", async () => {
    const missing = exactTokenizer(() => Promise.reject(new Error("Cannot find package 'gpt-tokenizer'")));
    await expect(missing).rejects.toThrow(ConfigError);
    await expect(missing).rejects.toThrow(/estimate\.tokenizer.*npm install gpt-tokenizer.*"fast"/);
  });

  test("long unbroken runs are counted in short parts, so that no text can stop the process", async () => {
    const parts: string[] = [];
    const spy = await exactTokenizer(() => Promise.resolve({ countTokens: (text) => parts.push(text) && text.length }));
    for (const unit of ["中", "a", "-", "!?", " ", "\n", "é", "🙂"]) {
      const text = unit.repeat(1000);
      parts.length = 0;
      expect(spy(text)).toBe(text.length);
      expect(parts.join("")).toBe(text);
      expect(Math.max(...parts.map((part) => part.length))).toBeLessThanOrEqual(65);
      expect(parts.every((part) => part.isWellFormed())).toBe(true);
    }
  });

  test("ordinary text is counted in one go, and cuts cost next to nothing", async () => {
    const parts: string[] = [];
    const spy = await exactTokenizer(() => Promise.resolve({ countTokens: (text) => parts.push(text) }));
    for (const text of Object.values(NATURAL)) {
      parts.length = 0;
      spy(text);
      expect(parts).toEqual([text]);
    }
    const { countTokens } = await import("gpt-tokenizer/encoding/o200k_base");
    const run = letters("abcdefghijklmnopqrstuvwxyz", 640);
    expect(Math.abs(exact(run) - countTokens(run))).toBeLessThanOrEqual(10);
  });
});
